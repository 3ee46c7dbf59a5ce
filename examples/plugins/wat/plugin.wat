;; An executor plugin in WebAssembly's text form: every part of the contract, and
;; nothing between it and the host. README.md lists what the payload steers.
;;
;; A text is two words, where it lies and how long it is; records, variants and
;; options lie in memory as the component model's canonical ABI lays them out.
(module
  (import "cogo:executor/host@0.1.0" "log" (func $log (param i32 i32 i32)))
  (import "cogo:executor/host@0.1.0" "progress" (func $progress (param i32 f64 i32 i32)))
  (import "cogo:executor/host@0.1.0" "config" (func $config (param i32 i32 i32)))
  (import "cogo:executor/host@0.1.0" "report-usage" (func $report_usage (param i64 i64 i32 i32 i32)))
  (import "cogo:executor/host@0.1.0" "store-artifact"
    (func $store_artifact (param i32 i32 i32 i32 i32 i32 i32)))
  (import "cogo:executor/host@0.1.0" "stop" (func $stop (param i32)))
  (import "cogo:executor/host@0.1.0" "stop-signal" (func $stop_signal (result i32)))
  (import "wasi:io/poll@0.2.12" "poll" (func $poll (param i32 i32 i32)))
  (import "wasi:io/streams@0.2.12" "[method]input-stream.blocking-read"
    (func $read (param i32 i64 i32)))
  (import "wasi:http/types@0.2.12" "[constructor]fields" (func $new_fields (result i32)))
  (import "wasi:http/types@0.2.12" "[constructor]outgoing-request"
    (func $new_request (param i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-scheme"
    (func $set_scheme (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-authority"
    (func $set_authority (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]outgoing-request.set-path-with-query"
    (func $set_path (param i32 i32 i32 i32) (result i32)))
  (import "wasi:http/outgoing-handler@0.2.12" "handle" (func $handle (param i32 i32 i32 i32)))
  (import "wasi:http/types@0.2.12" "[method]future-incoming-response.subscribe"
    (func $subscribe (param i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]future-incoming-response.get" (func $get (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[method]incoming-response.status"
    (func $status (param i32) (result i32)))
  (import "wasi:http/types@0.2.12" "[method]incoming-response.consume" (func $consume (param i32 i32)))
  (import "wasi:http/types@0.2.12" "[method]incoming-body.stream" (func $stream (param i32 i32)))

  (memory (export "memory") 2)

  ;; Where things lie: 1024 the descriptor, 1536 its lists, 2048 the result of
  ;; execute, 3072 what the host answers, 4096 texts that end with a zero, and
  ;; from 8192 on whatever the host puts into memory.
  (global $free (mut i32) (i32.const 8192))
  (data (i32.const 4096) "wat-example\00")
  (data (i32.const 4224) "0.1.0\00")
  (data (i32.const 4256) "code/build-test\00")
  (data (i32.const 4288) "GREETING\00")
  (data (i32.const 4320) "FETCH_ORIGIN\00")
  (data (i32.const 4352) "config:FETCH_ORIGIN\00")
  (data (i32.const 4384) "Hello, world!\00")
  (data (i32.const 4416) "greeted\00")
  (data (i32.const 4448) "fetched\00")
  (data (i32.const 4480) "report.txt\00")
  (data (i32.const 4512) "text/plain; charset=utf-8\00")
  (data (i32.const 4544) "fetched.bin\00")
  (data (i32.const 4576) "application/octet-stream\00")
  (data (i32.const 4608) "/\00")
  ;; What the payload is searched for, and what becomes of it.
  (data (i32.const 4640) "\"retryable\"\00")
  (data (i32.const 4672) "\"permanent\"\00")
  (data (i32.const 4704) "\"fetch\"\00")
  (data (i32.const 4736) "example_retryable\00")
  (data (i32.const 4768) "fails, as the payload asked\00")
  (data (i32.const 4800) "example_permanent\00")
  (data (i32.const 4832) "fails for good, as it asked\00")
  (data (i32.const 4864) "payload_invalid\00")
  (data (i32.const 4896) "it is no JSON object\00")
  (data (i32.const 4928) "artifact_refused\00")
  (data (i32.const 4960) "the host stores no artifact\00")
  (data (i32.const 4992) "fetch_failed\00")
  (data (i32.const 5024) "there was no usable answer\00")
  (data (i32.const 5056) "egress_denied\00")
  (data (i32.const 5088) "grant FETCH_ORIGIN in allow\00")
  (data (i32.const 5120) "config_missing\00")
  (data (i32.const 5152) "FETCH_ORIGIN is not set\00")

  ;; The host asks for memory with this; an attempt's instance ends with it, so
  ;; nothing is ever given back.
  (func $realloc (export "cabi_realloc") (param i32 i32) (param $align i32) (param $size i32)
    (result i32)
    (local $at i32)
    (local.set $at (i32.and
      (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
      (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $at) (local.get $size)))
    (block $enough
      (br_if $enough (i32.le_u (global.get $free) (i32.shl (memory.size) (i32.const 16))))
      (br_if $enough (i32.ne (i32.const -1) (memory.grow
        (i32.add (i32.const 1) (i32.shr_u (local.get $size) (i32.const 16))))))
      unreachable)
    (local.get $at))

  (func $length (param $text i32) (result i32)
    (local $end i32)
    (local.set $end (local.get $text))
    (block $ended (loop $next
      (br_if $ended (i32.eqz (i32.load8_u (local.get $end))))
      (local.set $end (i32.add (local.get $end) (i32.const 1)))
      (br $next)))
    (i32.sub (local.get $end) (local.get $text)))

  ;; Puts a text's two words at an address.
  (func $put (param $at i32) (param $text i32)
    (i32.store (local.get $at) (local.get $text))
    (i32.store offset=4 (local.get $at) (call $length (local.get $text))))

  ;; Whether a text of the payload is this one, somewhere.
  (func $has (param $task i32) (param $wanted i32) (result i32)
    (local $at i32) (local $end i32) (local $i i32)
    (local.set $at (i32.load offset=80 (local.get $task)))
    (local.set $end (i32.sub
      (i32.add (local.get $at) (i32.load offset=84 (local.get $task)))
      (call $length (local.get $wanted))))
    (block $absent (loop $next
      (br_if $absent (i32.gt_s (local.get $at) (local.get $end)))
      (local.set $i (i32.const 0))
      (block $differs
        (loop $same
          (if (i32.eqz (i32.load8_u (i32.add (local.get $wanted) (local.get $i))))
            (then (return (i32.const 1))))
          (br_if $differs (i32.ne
            (i32.load8_u (i32.add (local.get $wanted) (local.get $i)))
            (i32.load8_u (i32.add (local.get $at) (local.get $i)))))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br $same)))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br $next)))
    (i32.const 0))

  ;; Constants only: the host calls it once, with nothing to reach.
  (func (export "cogo:executor/plugin@0.1.0#describe") (result i32)
    (call $put (i32.const 1024) (i32.const 4096))         ;; name
    (call $put (i32.const 1032) (i32.const 4224))         ;; version
    (i32.store8 (i32.const 1040) (i32.const 0))           ;; kind: real
    (call $put (i32.const 1536) (i32.const 4256))         ;; handles: one text
    (i32.store (i32.const 1044) (i32.const 1536)) (i32.store (i32.const 1048) (i32.const 1))
    (call $put (i32.const 1544) (i32.const 4288))         ;; config-keys: two
    (call $put (i32.const 1552) (i32.const 4320))
    (i32.store (i32.const 1052) (i32.const 1544)) (i32.store (i32.const 1056) (i32.const 2))
    (call $put (i32.const 1560) (i32.const 4352))         ;; egress: one
    (i32.store (i32.const 1060) (i32.const 1560)) (i32.store (i32.const 1064) (i32.const 1))
    (i32.const 1024))

  ;; The result of an attempt that failed: 0 retryable, 1 permanent, 2 interrupted.
  (func $failure (param $case i32) (param $code i32) (param $message i32) (result i32)
    (i32.store8 (i32.const 2048) (i32.const 1))
    (i32.store8 (i32.const 2056) (local.get $case))
    (call $put (i32.const 2064) (local.get $code))
    (call $put (i32.const 2072) (local.get $message))
    ;; retry-after-ms: a second, for what is retryable.
    (i32.store8 (i32.const 2080) (i32.eqz (local.get $case)))
    (i64.store (i32.const 2088) (i64.const 1000))
    (i32.const 2048))

  (func $is_stopped (result i32)
    (call $stop (i32.const 3072))
    (i32.load8_u (i32.const 3072)))

  ;; Gets FETCH_ORIGIN and stores what came first. Returns what ends the attempt,
  ;; or zero.
  (func $fetch (result i32)
    (local $origin i32) (local $skip i32) (local $request i32) (local $future i32) (local $response i32)
    (call $config (i32.const 4320) (call $length (i32.const 4320)) (i32.const 3072))
    (if (i32.eqz (i32.load8_u (i32.const 3072)))
      (then (return (call $failure (i32.const 1) (i32.const 5120) (i32.const 5152)))))
    (local.set $origin (i32.load (i32.const 3076)))
    ;; `https://` is a byte longer than `http://`.
    (local.set $skip (i32.add (i32.const 7)
      (i32.eq (i32.load8_u offset=4 (local.get $origin)) (i32.const 0x73))))
    (local.set $request (call $new_request (call $new_fields)))
    (drop (call $set_scheme (local.get $request) (i32.const 1)
      (i32.sub (local.get $skip) (i32.const 7)) (i32.const 0) (i32.const 0)))
    (if (call $set_authority (local.get $request) (i32.const 1)
        (i32.add (local.get $origin) (local.get $skip))
        (i32.sub (i32.load (i32.const 3080)) (local.get $skip)))
      (then (return (call $failure (i32.const 1) (i32.const 5120) (i32.const 5152)))))
    (drop (call $set_path (local.get $request) (i32.const 1) (i32.const 4608) (i32.const 1)))
    (call $handle (local.get $request) (i32.const 0) (i32.const 0) (i32.const 3072))
    (if (i32.load8_u (i32.const 3072))
      (then (return (call $unanswered (i32.load8_u (i32.const 3080))))))
    (local.set $future (i32.load (i32.const 3080)))
    ;; Until the answer is there, or the host asks to stop.
    (i32.store (i32.const 3200) (call $subscribe (local.get $future)))
    (i32.store (i32.const 3204) (call $stop_signal))
    (call $poll (i32.const 3200) (i32.const 2) (i32.const 3072))
    (if (call $is_stopped)
      (then (return (call $failure (i32.const 2) (i32.const 4608) (i32.const 4608)))))
    ;; An option of a result of a result: some, ok, and then the answer's own.
    (call $get (local.get $future) (i32.const 3072))
    (if (i32.load8_u (i32.const 3088))
      (then (return (call $unanswered (i32.load8_u (i32.const 3096))))))
    (local.set $response (i32.load (i32.const 3096)))
    (if (i32.ge_u (call $status (local.get $response)) (i32.const 400))
      (then (return (call $failure (i32.const 0) (i32.const 4992) (i32.const 5024)))))
    (call $consume (local.get $response) (i32.const 3072))
    (call $stream (i32.load (i32.const 3076)) (i32.const 3072))
    (call $read (i32.load (i32.const 3076)) (i64.const 65536) (i32.const 3072))
    (if (i32.load8_u (i32.const 3072))                    ;; closed: nothing came
      (then (i64.store (i32.const 3076) (i64.const 0))))
    (call $store_artifact (i32.const 4544) (call $length (i32.const 4544))
      (i32.const 4576) (call $length (i32.const 4576))
      (i32.load (i32.const 3076)) (i32.load (i32.const 3080)) (i32.const 3072))
    (call $progress (i32.const 1) (f64.const 0.6) (i32.const 4448) (call $length (i32.const 4448)))
    (i32.const 0))

  ;; No answer, by the case of its error-code; 15 is http-request-denied.
  (func $unanswered (param $error i32) (result i32)
    (if (result i32) (i32.eq (local.get $error) (i32.const 15))
      (then (call $failure (i32.const 1) (i32.const 5056) (i32.const 5088)))
      (else (call $failure (i32.const 0) (i32.const 4992) (i32.const 5024)))))

  (func (export "cogo:executor/executor@0.1.0#execute") (param $task i32) (result i32)
    (local $greeting i32) (local $size i32) (local $ended i32)
    ;; The payload comes from whoever put the task on the bus: from { to }.
    (local.set $size (i32.load offset=84 (local.get $task)))
    (local.set $ended (i32.load offset=80 (local.get $task)))
    (if (i32.or
        (i32.ne (i32.load8_u (local.get $ended)) (i32.const 0x7b))
        (i32.or (i32.lt_u (local.get $size) (i32.const 2)) (i32.ne (i32.const 0x7d)
          (i32.load8_u (i32.sub (i32.add (local.get $ended) (local.get $size)) (i32.const 1))))))
      (then (return (call $failure (i32.const 1) (i32.const 4864) (i32.const 4896)))))
    (local.set $greeting (i32.const 4384))
    (local.set $size (call $length (i32.const 4384)))
    (call $config (i32.const 4288) (call $length (i32.const 4288)) (i32.const 3072))
    (if (i32.load8_u (i32.const 3072)) (then
      (local.set $greeting (i32.load (i32.const 3076)))
      (local.set $size (i32.load (i32.const 3080)))))
    (call $log (i32.const 2) (local.get $greeting) (local.get $size))
    (call $progress (i32.const 1) (f64.const 0.1) (i32.const 4416) (call $length (i32.const 4416)))
    ;; Before anything can fail: what a failed attempt spent counts too.
    (call $report_usage (i64.const 0) (i64.const 2) (i32.const 0) (i32.const 0) (i32.const 0))

    (if (call $has (local.get $task) (i32.const 4640))
      (then (return (call $failure (i32.const 0) (i32.const 4736) (i32.const 4768)))))
    (if (call $has (local.get $task) (i32.const 4672))
      (then (return (call $failure (i32.const 1) (i32.const 4800) (i32.const 4832)))))
    (if (call $has (local.get $task) (i32.const 4704)) (then
      (local.set $ended (call $fetch))
      (if (local.get $ended) (then (return (local.get $ended))))))
    (if (call $is_stopped)
      (then (return (call $failure (i32.const 2) (i32.const 4608) (i32.const 4608)))))

    (call $store_artifact (i32.const 4480) (call $length (i32.const 4480))
      (i32.const 4512) (call $length (i32.const 4512))
      (local.get $greeting) (local.get $size) (i32.const 3072))
    (if (i32.load8_u (i32.const 3072))
      (then (return (call $failure (i32.const 1) (i32.const 4928) (i32.const 4960)))))
    ;; Ok, build-test: passed, 3 tests, 0 failures, and the artifact's URL.
    (i32.store8 (i32.const 2064) (i32.const 1))
    (i32.store (i32.const 2068) (i32.const 3))
    (i32.store8 (i32.const 2088) (i32.const 1))
    (i32.store (i32.const 2092) (i32.load (i32.const 3080)))
    (i32.store (i32.const 2096) (i32.load (i32.const 3084)))
    (i32.store8 (i32.const 2104) (i32.const 1))           ;; the line for people
    (i32.store (i32.const 2108) (local.get $greeting))
    (i32.store (i32.const 2112) (local.get $size))
    (i32.const 2048)))
