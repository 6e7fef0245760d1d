//! The network namespace in which programs run: interfaces whose indices the
//! packets name, and the routes and neighbours that XDP's FIB lookup finds.
//!
//! It has no name and no process, so it goes away with the test.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use lb_common::value::{Interface, role};
use lb_common::{V4, V6};
use nix::sched::{CloneFlags, unshare};

use crate::packet::Macs;

/// An interface of the namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its index.
    pub index: u32,
    /// One of [`role`].
    pub role: u8,
    /// The node's IPv4 address on it.
    pub v4: &'static str,
    /// The node's IPv6 address on it.
    pub v6: &'static str,
    /// Its own MAC address, and that of the neighbour that packets come from.
    macs: Macs,
}

const fn mac(last: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, last]
}

/// The uplink with the default route.
pub const UPLINK: Port = Port {
    index: 100,
    role: role::UPLINK,
    v4: "192.0.2.1",
    v6: "2001:db8::1",
    macs: Macs { src: mac(0xfe), dst: mac(1) },
};
/// Another uplink.
pub const UPLINK_2: Port = Port {
    index: 102,
    role: role::UPLINK,
    v4: "198.51.100.1",
    v6: "2001:db8:1::1",
    macs: Macs { src: mac(0xfc), dst: mac(2) },
};
/// Leads to a pod.
pub const POD: Port = Port {
    index: 104,
    role: role::POD,
    v4: "10.244.1.1",
    v6: "fd00:10:244:1::1",
    macs: Macs { src: mac(0x31), dst: mac(3) },
};
/// Leads to another pod.
pub const POD_2: Port = Port {
    index: 106,
    role: role::POD,
    v4: "10.244.1.1",
    v6: "fd00:10:244:1::1",
    macs: Macs { src: mac(0x41), dst: mac(4) },
};
/// Leads to other nodes' pods; has a MAC header, as VXLAN has.
pub const TUNNEL: Port = Port {
    index: 108,
    role: role::TUNNEL,
    v4: "10.244.1.0",
    v6: "fd00:10:244:1::",
    macs: Macs { src: mac(0x51), dst: mac(5) },
};
/// An interface that is none of ours: no row.
pub const OTHER: Port = Port {
    index: 110,
    role: 0,
    v4: "172.31.0.1",
    v6: "fd00:31::1",
    macs: Macs { src: mac(0x61), dst: mac(6) },
};

/// Those that have a row in the interface map.
pub const PORTS: [Port; 5] = [UPLINK, UPLINK_2, POD, POD_2, TUNNEL];

/// The neighbour on [`UPLINK`] that leads to 10.244.2.0/24.
pub const NODE_2_MAC: [u8; 6] = mac(0xf2);
/// The neighbour on [`UPLINK_2`] that leads to 10.244.3.0/24.
pub const NODE_3_MAC: [u8; 6] = mac(0xf3);

impl Port {
    /// MAC addresses of a frame that enters here.
    pub const fn entering(&self) -> Macs {
        self.macs
    }

    /// MAC addresses of a frame that leaves here for the neighbour.
    pub const fn leaving(&self) -> Macs {
        self.macs.reversed()
    }

    /// MAC addresses of a frame that leaves here for another neighbour.
    pub const fn leaving_to(&self, neighbour: [u8; 6]) -> Macs {
        Macs { src: self.macs.dst, dst: neighbour }
    }

    /// The node's address on it, of the same family as `like`.
    pub fn address(&self, like: IpAddr) -> IpAddr {
        let text = if like.is_ipv4() { self.v4 } else { self.v6 };
        text.parse().expect("an address")
    }

    /// Its row in the interface map.
    pub fn row(&self) -> Interface {
        let v4 = V4::from(self.v4.parse::<std::net::Ipv4Addr>().expect("an address"));
        let v6 = V6::from(self.v6.parse::<std::net::Ipv6Addr>().expect("an address"));
        let xdp = u8::from(self.role == role::UPLINK);
        let local = u8::from(self.role == role::POD);
        Interface {
            role: self.role,
            xdp,
            local,
            port: 0,
            snat_v4: v4.0,
            snat_v6: v6.0,
            mac: self.macs.dst,
            peer: local,
            pad: [0; 1],
        }
    }
}

/// What `ip -batch` sets up.
const SETUP: &str = "\
link set lo up
link add up0 index 100 address 02:00:00:00:01:01 type veth peer name up0p index 101
link add up1 index 102 address 02:00:00:00:01:02 type veth peer name up1p index 103
link add pod0 index 104 address 02:00:00:00:01:03 type veth peer name pod0p index 105
link add pod1 index 106 address 02:00:00:00:01:04 type veth peer name pod1p index 107
link add tun0 index 108 address 02:00:00:00:01:05 type veth peer name tun0p index 109
link add other index 110 address 02:00:00:00:01:06 type veth peer name otherp index 111
link set up0 up
link set up0p up
link set up1 up
link set up1p up
link set pod0 up
link set pod0p up
link set pod1 up
link set pod1p up
link set tun0 up
link set tun0p up
link set other up
link set otherp up
addr add 192.0.2.1/24 dev up0
addr add 2001:db8::1/64 dev up0 nodad
addr add 198.51.100.1/24 dev up1
addr add 2001:db8:1::1/64 dev up1 nodad
addr add 10.244.1.1/32 dev pod0
addr add fd00:10:244:1::1/128 dev pod0 nodad
route add default via 192.0.2.254
route add default via 2001:db8::fe
route add 10.244.1.10/32 dev pod0
route add fd00:10:244:1::a/128 dev pod0
route add 10.244.1.20/32 dev pod1
route add fd00:10:244:1::14/128 dev pod1
route add 10.244.2.0/24 via 192.0.2.2
route add fd00:10:244:2::/64 via 2001:db8::2
route add 10.244.3.0/24 via 198.51.100.3
route add fd00:10:244:3::/64 via 2001:db8:1::3
route add 10.244.4.0/24 via 192.0.2.4
route add fd00:10:244:4::/64 via 2001:db8::4
route add 10.244.5.0/24 dev tun0
route add fd00:10:244:5::/64 dev tun0
neigh add 192.0.2.254 lladdr 02:00:00:00:01:fe dev up0 nud permanent
neigh add 2001:db8::fe lladdr 02:00:00:00:01:fe dev up0 nud permanent
neigh add 192.0.2.2 lladdr 02:00:00:00:01:f2 dev up0 nud permanent
neigh add 2001:db8::2 lladdr 02:00:00:00:01:f2 dev up0 nud permanent
neigh add 198.51.100.3 lladdr 02:00:00:00:01:f3 dev up1 nud permanent
neigh add 2001:db8:1::3 lladdr 02:00:00:00:01:f3 dev up1 nud permanent
neigh add 10.244.1.10 lladdr 02:00:00:00:01:31 dev pod0 nud permanent
neigh add fd00:10:244:1::a lladdr 02:00:00:00:01:31 dev pod0 nud permanent
neigh add 10.244.1.20 lladdr 02:00:00:00:01:41 dev pod1 nud permanent
neigh add fd00:10:244:1::14 lladdr 02:00:00:00:01:41 dev pod1 nud permanent
";

/// Makes the namespace. The calling thread is in it afterwards.
pub(super) fn namespace() -> OwnedFd {
    unshare(CloneFlags::CLONE_NEWNET).expect("make a network namespace");
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("run `ip` of the package iproute2");
    let written = ip.stdin.take().expect("piped").write_all(SETUP.as_bytes());
    let status = ip.wait().expect("wait for `ip`");
    assert!(written.is_ok() && status.success(), "`ip -batch` set up the interfaces");
    for name in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        fs::write(format!("/proc/sys/net/{name}"), "1").expect("let the namespace forward");
    }
    fs::File::open("/proc/thread-self/ns/net").expect("the thread's namespace").into()
}
