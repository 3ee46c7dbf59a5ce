//! Which addresses are public, which are private, and which nobody may reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// On the public internet.
    Public,
    /// This machine, or a network of the operator's.
    Private,
    /// Credentials of the machine, or no host at all.
    Never,
}

/// Where cloud providers hand out credentials outside of the link-local range.
const METADATA_V4: [Ipv4Addr; 3] = [
    // Alibaba Cloud.
    Ipv4Addr::new(100, 100, 100, 200),
    // Azure's host node.
    Ipv4Addr::new(168, 63, 129, 16),
    // Oracle Cloud, classic.
    Ipv4Addr::new(192, 0, 0, 192),
];

/// The same, of version 6: AWS (instance, containers) and Google Cloud.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254),
    Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0023),
    Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254),
];

/// Classifies an address by the special-purpose registries of IANA.
pub fn reach_of(ip: IpAddr) -> Reach {
    match ip {
        IpAddr::V4(ip) => v4(ip),
        IpAddr::V6(ip) => v6(ip),
    }
}

fn v4(ip: Ipv4Addr) -> Reach {
    if METADATA_V4.contains(&ip) {
        return Reach::Never;
    }
    match ip.octets() {
        // "This network", link-local (169.254.169.254 is in it), protocol
        // assignments, multicast, reserved and broadcast.
        [0, ..] | [169, 254, ..] | [192, 0, 0, _] | [224..=255, ..] => Reach::Never,
        // Loopback, private use, carrier-grade translation, benchmarking,
        // documentation, the deprecated relay anycast.
        [127 | 10, ..]
        | [172, 16..=31, ..]
        | [192, 168, ..]
        | [100, 64..=127, ..]
        | [198, 18 | 19, ..]
        | [192, 0, 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [192, 88, 99, _] => Reach::Private,
        _ => Reach::Public,
    }
}

fn v6(ip: Ipv6Addr) -> Reach {
    if METADATA_V6.contains(&ip) {
        return Reach::Never;
    }
    if ip.is_loopback() {
        return Reach::Private;
    }
    if ip.is_unspecified() {
        return Reach::Never;
    }
    match ip.segments() {
        // Another spelling of a version 4 address.
        [0, 0, 0, 0, 0, 0xffff, ..] => v4(low_v4(ip)),
        // Version 4 addresses inside of version 6 ones: deprecated compatible
        // ones, translated (NAT64), and 6to4. A private one can only be meant to
        // slip through.
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => embedded(low_v4(ip)),
        [0x2002, high, low, ..] => embedded(join_v4(high, low)),
        // Local-use translation and Teredo hide where they lead; link-local and
        // multicast lead to no server; discard-only goes nowhere.
        [0x64, 0xff9b, 1, ..]
        | [0x2001, 0, ..]
        | [0xfe80..=0xfebf, ..]
        | [0xff00..=0xffff, ..]
        | [0x100, 0, 0, 0, ..] => Reach::Never,
        // Unique local, deprecated site-local, documentation, benchmarking.
        [0xfc00..=0xfdff, ..]
        | [0xfec0..=0xfeff, ..]
        | [0x2001, 0x0db8, ..]
        | [0x3fff, 0..=0x0fff, ..]
        | [0x2001, 2, 0, ..] => Reach::Private,
        // Only this block is assigned for global unicast.
        [0x2000..=0x3fff, ..] => Reach::Public,
        _ => Reach::Never,
    }
}

fn embedded(ip: Ipv4Addr) -> Reach {
    match v4(ip) {
        Reach::Public => Reach::Public,
        Reach::Private | Reach::Never => Reach::Never,
    }
}

fn low_v4(ip: Ipv6Addr) -> Ipv4Addr {
    let [.., high, low] = ip.segments();
    join_v4(high, low)
}

fn join_v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))
}
