//! What the machine gives a process: files, address space, memory, time.

use std::time::SystemTime;

use rustix::process::{Resource, getrlimit};

use crate::finding::{Check, Finding, Severity};

const OPEN_FILES: Check = Check {
    id: "machine.open_files",
    title: "open files",
    severity: Severity::Warning,
    fix: "raise it: `ulimit -n 65536`, or LimitNOFILE= of the service",
};

const ADDRESS_SPACE: Check = Check {
    id: "machine.address_space",
    title: "address space",
    severity: Severity::Error,
    fix: "lift it: `ulimit -v unlimited`; the sandbox reserves much more than it uses",
};

const MEMORY: Check = Check {
    id: "machine.memory",
    title: "available memory",
    severity: Severity::Warning,
    fix: "free memory, or lower COGO_CONCURRENCY and the plugins' `limits.memory_mb`",
};

const CLOCK: Check = Check {
    id: "machine.clock",
    title: "clock of this machine",
    severity: Severity::Error,
    fix: "set the clock, and let a time service keep it: `timedatectl set-ntp true`",
};

const PROGRAM: Check = Check {
    id: "machine.program",
    title: "this program's file",
    severity: Severity::Error,
    fix: "start the host by a path that stays: it compiles plugins in processes of its own",
};

/// Connections, plugins and their databases at the default concurrency.
const LEAST_OPEN_FILES: u64 = 1024;
/// What the pool of guests reserves, generously.
const LEAST_ADDRESS_SPACE: u64 = 1 << 40;
/// Two guests at their default limit, and the host.
const LEAST_MEMORY: u64 = 384 * 1024 * 1024;

pub(super) fn examine() -> Vec<Finding> {
    vec![open_files(), address_space(), memory(), clock(), program()]
}

fn open_files() -> Finding {
    match getrlimit(Resource::Nofile).current {
        None => OPEN_FILES.pass("no limit"),
        Some(limit) => OPEN_FILES.holds(limit >= LEAST_OPEN_FILES, format!("at most {limit}")),
    }
}

fn address_space() -> Finding {
    match getrlimit(Resource::As).current {
        None => ADDRESS_SPACE.pass("no limit"),
        Some(limit) => {
            let detail = format!("at most {} GiB", limit >> 30);
            ADDRESS_SPACE.holds(limit >= LEAST_ADDRESS_SPACE, detail)
        }
    }
}

fn memory() -> Finding {
    let Ok(text) = std::fs::read_to_string("/proc/meminfo") else {
        return MEMORY.unknown("this system does not say");
    };
    match available(&text) {
        None => MEMORY.unknown("this system does not say"),
        Some(bytes) => MEMORY.holds(bytes >= LEAST_MEMORY, format!("{} MiB", bytes >> 20)),
    }
}

fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

/// No clock to compare with is at hand, but it cannot be earlier than the build.
fn clock() -> Finding {
    let program = std::env::current_exe().and_then(std::fs::metadata);
    let Ok(built) = program.and_then(|found| found.modified()) else {
        return CLOCK.unknown("there is nothing to compare it with");
    };
    let now = SystemTime::now();
    let told = chrono::DateTime::<chrono::Utc>::from(now).format("%Y-%m-%d %H:%M:%S UTC");
    match now.duration_since(built) {
        Ok(_) => CLOCK.pass(told.to_string()),
        Err(_) => CLOCK.bad(format!("{told} is before this program was made")),
    }
}

fn program() -> Finding {
    match std::env::current_exe() {
        Ok(path) if path.is_file() => PROGRAM.pass(format!("`{}`", path.display())),
        Ok(path) => PROGRAM.bad(format!("`{}` is gone", path.display())),
        Err(cause) => PROGRAM.bad(cause.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_as_the_kernel_writes_it() {
        let text = "MemTotal:       16000 kB\nMemAvailable:    1024 kB\n";
        assert_eq!(available(text), Some(1 << 20));
        assert_eq!(available("MemTotal: 1 kB"), None);
        assert_eq!(available("MemAvailable: many"), None);
    }
}
