use std::collections::BTreeMap;

use super::*;

fn config() -> BTreeMap<String, String> {
    BTreeMap::from([
        (
            "WORKER".to_owned(),
            "http://worker:8080/base?x=1".to_owned(),
        ),
        ("BAD".to_owned(), "not a url".to_owned()),
        ("FILE".to_owned(), "file:///etc/passwd".to_owned()),
    ])
}

fn policy(grants: &[&str]) -> Policy {
    let grants: Vec<Grant> = grants
        .iter()
        .map(|text| Grant::parse(text, &config()).unwrap())
        .collect();
    Policy::new(grants.clone(), grants)
}

fn judge(grant: &str, url: &str) -> Result<Allowed, Refusal> {
    policy(&[grant]).judge(&Url::parse(url).unwrap())
}

/// Grant, URL, and what becomes of it: `named`, `public`, or why not.
#[test]
fn the_table_of_grants() {
    let table = [
        // Exact origins.
        (
            "https://api.example.com",
            "https://api.example.com/v1?q=1",
            "named",
        ),
        (
            "https://api.example.com",
            "https://API.example.com./",
            "named",
        ),
        (
            "https://api.example.com",
            "https://api.example.com:443/",
            "named",
        ),
        (
            "https://api.example.com",
            "https://api.example.com:8443/",
            "not granted",
        ),
        (
            "https://api.example.com",
            "http://api.example.com/",
            "not granted",
        ),
        (
            "https://api.example.com",
            "https://example.com/",
            "not granted",
        ),
        (
            "https://api.example.com",
            "https://api.example.com.evil.test/",
            "not granted",
        ),
        (
            "https://api.example.com",
            "https://evil.test/api.example.com",
            "not granted",
        ),
        (
            "https://api.example.com:8443",
            "https://api.example.com:8443/",
            "named",
        ),
        (
            "https://api.example.com:8443",
            "https://api.example.com/",
            "not granted",
        ),
        (
            "https://bücher.example",
            "https://xn--bcher-kva.example/",
            "named",
        ),
        ("http://worker:8080", "http://worker:8080/run", "named"),
        // Credentials in the URL, and other schemes.
        ("https://a.test", "https://user@a.test/", "origin"),
        ("https://a.test", "https://user:pw@a.test/", "origin"),
        ("https://a.test", "https://a.test@evil.test/", "origin"),
        ("https://a.test", "ftp://a.test/", "origin"),
        ("https://a.test", "file:///etc/passwd", "origin"),
        // Wildcards.
        ("https://*.example.com", "https://a.example.com/", "public"),
        (
            "https://*.example.com",
            "https://a.b.example.com/",
            "public",
        ),
        (
            "https://*.example.com",
            "https://example.com/",
            "not granted",
        ),
        (
            "https://*.example.com",
            "https://badexample.com/",
            "not granted",
        ),
        (
            "https://*.example.com",
            "https://example.com.evil.test/",
            "not granted",
        ),
        (
            "https://*.example.com",
            "http://a.example.com/",
            "not granted",
        ),
        (
            "https://*.example.com:8443",
            "https://a.example.com:8443/",
            "public",
        ),
        (
            "https://*.example.com:8443",
            "https://a.example.com/",
            "not granted",
        ),
        // By configuration.
        ("config:WORKER", "http://worker:8080/elsewhere", "named"),
        ("config:WORKER", "http://worker/", "not granted"),
        ("config:UNSET", "http://worker:8080/", "not granted"),
        // Addresses that were named.
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080/", "named"),
        (
            "http://127.0.0.1:8080",
            "http://127.0.0.1:8081/",
            "not granted",
        ),
        (
            "http://127.0.0.1:8080",
            "http://localhost:8080/",
            "not granted",
        ),
        ("http://127.0.0.1:8080", "http://0x7f.1:8080/", "named"),
        ("http://127.0.0.1:8080", "http://2130706433:8080/", "named"),
        (
            "http://127.0.0.1:8080",
            "http://017700000001:8080/",
            "named",
        ),
        ("http://10.1.2.3", "http://10.1.2.3/", "named"),
        ("http://[::1]:80", "http://[::1]/", "named"),
        ("http://[fd12::1]", "http://[fd12::1]/", "named"),
        // Addresses that nobody reaches, even when named.
        (
            "http://169.254.169.254",
            "http://169.254.169.254/latest/",
            "never",
        ),
        ("http://169.254.169.254", "http://0xa9fea9fe/", "never"),
        ("http://169.254.170.2", "http://169.254.170.2/", "never"),
        ("http://100.100.100.200", "http://100.100.100.200/", "never"),
        ("http://168.63.129.16", "http://168.63.129.16/", "never"),
        ("http://[fd00:ec2::254]", "http://[fd00:ec2::254]/", "never"),
        ("http://[fd20:ce::254]", "http://[fd20:ce::254]/", "never"),
        (
            "http://[::ffff:169.254.169.254]",
            "http://[::ffff:a9fe:a9fe]/",
            "never",
        ),
        ("http://0.0.0.0", "http://0.0.0.0/", "never"),
        ("http://[::]", "http://[::]/", "never"),
        ("http://255.255.255.255", "http://255.255.255.255/", "never"),
        ("http://[fe80::1]", "http://[fe80::1]/", "never"),
        (
            "http://[64:ff9b::7f00:1]",
            "http://[64:ff9b::7f00:1]/",
            "never",
        ),
        ("http://[2002:7f00:1::]", "http://[2002:7f00:1::]/", "never"),
        ("http://[::7f00:1]", "http://[::7f00:1]/", "never"),
        ("http://[2001::1]", "http://[2001::1]/", "never"),
        // Networks.
        ("https://8.8.0.0/16", "https://8.8.4.4/", "public"),
        ("https://8.8.0.0/16", "https://8.9.4.4/", "not granted"),
        ("https://8.8.0.0/16:8443", "https://8.8.4.4:8443/", "public"),
        ("https://8.8.0.0/16", "https://dns.google/", "not granted"),
        (
            "http://[2606:4700::/32]",
            "http://[2606:4700::1]/",
            "public",
        ),
        (
            "http://[2606:4700::/32]:8080",
            "http://[2606:4700::1]:8080/",
            "public",
        ),
        ("http://10.0.0.0/8", "http://10.1.2.3/", "private"),
        ("http://127.0.0.0/8", "http://127.0.0.1/", "private"),
        ("http://[fc00::/7]", "http://[fd12::1]/", "private"),
        ("http://0.0.0.0/0", "http://169.254.169.254/", "never"),
        ("http://0.0.0.0/0", "http://192.168.1.1/", "private"),
        ("http://[::/0]", "http://[::ffff:10.0.0.1]/", "private"),
    ];
    for (grant, url, expected) in table {
        let found = match judge(grant, url) {
            Ok(Allowed::Named) => "named",
            Ok(Allowed::Public) => "public",
            Err(Refusal::Origin(_)) => "origin",
            Err(Refusal::NotGranted(_)) => "not granted",
            Err(Refusal::NotDeclared(_)) => "not declared",
            Err(Refusal::Private(_)) => "private",
            Err(Refusal::Never(_)) => "never",
        };
        assert_eq!(found, expected, "grant {grant}, url {url}");
    }
}

#[test]
fn what_is_no_grant() {
    for bad in [
        "",
        "*",
        "api.example.com",
        "//api.example.com",
        "ftp://a.test",
        "https://",
        "https://*",
        "https://*.com",
        "https://a.*.example.com",
        "https://*a.example.com",
        "https://**.example.com",
        "https://*.10.0.0.1",
        "https://a.test/",
        "https://a.test/path",
        "https://a.test?x",
        "https://user@a.test",
        "https://a.test:99999",
        "https://a.test:x",
        "https://10.0.0.0/33",
        "https://10.0.0.1/8",
        "https://10.0.0.0/8/x",
        "https://10.0.0.0/8:x",
        "https://[::1",
        "config:",
        "config:BAD",
        "config:FILE",
    ] {
        assert!(Grant::parse(bad, &config()).is_err(), "{bad:?}");
    }
}

#[test]
fn both_lists_must_cover_an_origin() {
    let grant = |text: &str| Grant::parse(text, &config()).unwrap();
    let url = Url::parse("https://a.test/").unwrap();
    let undeclared = Policy::new(vec![grant("https://a.test")], vec![]);
    assert!(matches!(
        undeclared.judge(&url),
        Err(Refusal::NotDeclared(_))
    ));
    let ungranted = Policy::new(vec![], vec![grant("https://a.test")]);
    assert!(matches!(ungranted.judge(&url), Err(Refusal::NotGranted(_))));
    // The plugin's pattern is enough for it; what counts as named is the operator's.
    let both = Policy::new(
        vec![grant("http://10.0.0.7")],
        vec![grant("http://10.0.0.0/8")],
    );
    let url = Url::parse("http://10.0.0.7/").unwrap();
    assert_eq!(both.judge(&url), Ok(Allowed::Named));
}

#[test]
fn what_a_plugins_own_list_lacks_is_known() {
    let lacks = |list: &[&str]| {
        let grant = |text: &&str| Grant::parse(text, &BTreeMap::new()).unwrap();
        let policy = Policy::new(Vec::new(), list.iter().map(grant).collect());
        let origin = Origin::of(&Url::parse("https://a.test/x").unwrap()).unwrap();
        match policy.undeclared(&origin) {
            None => "nothing".to_owned(),
            Some(Undeclared::Missing) => "an entry".to_owned(),
            Some(Undeclared::Unset(keys)) => keys.join(", "),
        }
    };
    assert_eq!(lacks(&["config:A", "https://a.test"]), "nothing");
    assert_eq!(lacks(&["config:A", "https://b.test", "config:B"]), "A, B");
    assert_eq!(lacks(&["https://b.test"]), "an entry");
    assert_eq!(lacks(&[]), "an entry");
}

#[test]
fn addresses_by_reach() {
    use Reach::{Never, Private, Public};
    for (ip, reach) in [
        ("8.8.8.8", Public),
        ("1.1.1.1", Public),
        ("172.15.0.1", Public),
        ("172.16.0.1", Private),
        ("172.31.255.255", Private),
        ("172.32.0.1", Public),
        ("100.63.0.1", Public),
        ("100.64.0.1", Private),
        ("192.168.0.1", Private),
        ("127.255.255.254", Private),
        ("198.18.0.1", Private),
        ("192.0.0.1", Never),
        ("169.254.0.1", Never),
        ("224.0.0.1", Never),
        ("240.0.0.1", Never),
        ("0.1.2.3", Never),
        ("2606:4700::1", Public),
        ("2a00::1", Public),
        ("2001:db8::1", Private),
        ("2001:4860:4860::8888", Public),
        ("::1", Private),
        ("fec0::1", Private),
        ("ff02::1", Never),
        ("100::1", Never),
        ("4000::1", Never),
        ("::ffff:8.8.8.8", Public),
        ("::ffff:127.0.0.1", Private),
        ("64:ff9b::8.8.8.8", Public),
        ("64:ff9b::10.0.0.1", Never),
        ("64:ff9b:1::8.8.8.8", Never),
        ("2002:808:808::", Public),
        ("2002:a00:1::", Never),
    ] {
        assert_eq!(reach_of(ip.parse().unwrap()), reach, "{ip}");
    }
}

#[test]
fn a_refused_origin_becomes_the_line_to_paste() {
    let policy = policy(&["config:WORKER"]);
    let Err(Refusal::NotGranted(origin)) = policy.judge(&Url::parse("https://a.test/x?y").unwrap())
    else {
        panic!("expected a refusal");
    };
    assert_eq!(
        policy.with_grant(&origin),
        r#"["config:WORKER", "https://a.test"]"#
    );
}
