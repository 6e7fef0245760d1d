//! Reading and following a real network: roles, addresses, and how soon an
//! interface that appears has its programs.
#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use lb_tests::netns::{Namespace, Naming};
use lb_tests::privilege;
use lb_userspace::dataplane::{HookOptions, Hooks, MapSizes, cleanup};
use lb_userspace::netlink::{Link, NetworkState, NetworkWatcher, Role, WatchOptions, snapshot};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than anything here takes, even on a machine that is busy.
const LIMIT: Duration = Duration::from_secs(10);

/// Whether a change is in the state.
type Arrived<'a> = &'a dyn Fn(&NetworkState) -> bool;

fn link<'a>(state: &'a NetworkState, name: &str) -> Option<&'a Link> {
    state.links.iter().find(|link| link.name == name)
}

fn role(state: &NetworkState, name: &str) -> Option<Role> {
    link(state, name).map(|link| link.role)
}

fn namespace(lines: &[&str]) -> Namespace {
    let netns = Namespace::new(Naming::Unique, "network").unwrap();
    netns.ip(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>()).unwrap();
    netns
}

#[test]
fn a_nodes_interfaces_get_their_roles_and_addresses() {
    if !privilege::root_or_skip() {
        return;
    }
    let netns = namespace(&[
        "link add name u0 type veth peer name u1",
        "link add name cni0 type bridge",
        "link add name podb type veth peer name podx",
        "link set podb master cni0",
        "link add name podr type veth peer name podrx",
        "link add name vx type vxlan id 7 dstport 4789",
        "link add name mac link u0 type macvlan mode bridge",
        "addr add 192.0.2.1/24 dev u0",
        "addr add 2001:db8::1/64 dev u0",
        "addr add 10.244.1.1/24 dev cni0",
        "addr add 10.244.1.0/32 dev vx",
        "addr add 169.254.1.1/32 dev podr",
        "link set u0 up",
        "link set u1 up",
        "link set cni0 up",
        "link set vx up",
        "link set podr up",
        "link set podb up",
        "route add default via 192.0.2.254",
    ]);
    let state = netns.run(|| snapshot(&WatchOptions::default())).unwrap().unwrap();
    for (name, expected) in [
        ("u0", Some(Role::Uplink)),
        ("cni0", None),
        ("podb", Some(Role::Pod)),
        ("podr", Some(Role::Pod)),
        ("vx", Some(Role::Tunnel)),
        ("mac", Some(Role::Uplink)),
        ("lo", None),
    ] {
        assert_eq!(role(&state, name), expected, "{name}");
    }
    let v4 = |name: &str| link(&state, name).and_then(|link| link.snat_v4).unwrap().to_string();
    assert_eq!(v4("u0"), "192.0.2.1");
    assert_eq!(v4("podb"), "10.244.1.1", "its bridge's");
    assert_eq!(v4("podr"), "192.0.2.1", "the node's, not a link-local one");
    assert_eq!(v4("vx"), "10.244.1.0");
    let v6 = link(&state, "podr").and_then(|link| link.snat_v6).unwrap();
    assert_eq!(v6.to_string(), "2001:db8::1");
    let own: Vec<String> = state.node_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(own, ["10.244.1.0", "10.244.1.1", "192.0.2.1", "2001:db8::1"]);
    assert!(state.links.iter().all(|link| link.has_mac));
}

#[test]
fn changes_are_noticed_as_they_happen() {
    if !privilege::root_or_skip() {
        return;
    }
    let netns = namespace(&["link add name u0 type veth peer name u1"]);
    netns
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut watcher = NetworkWatcher::new(WatchOptions::default()).unwrap();
                assert_eq!(role(watcher.state(), "u0"), Some(Role::Pod));
                let ip = |lines: &[&str]| {
                    netns.ip(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>())
                };
                let steps: [(&[&str], Arrived<'_>); 5] = [
                    (&["link add name late type veth peer name latex"], &|state| {
                        role(state, "late").is_some()
                    }),
                    (
                        &[
                            "link set u0 up",
                            "link set u1 up",
                            "addr add 192.0.2.1/24 dev u0",
                            "route add default via 192.0.2.254",
                        ],
                        &|state| {
                            role(state, "u0") == Some(Role::Uplink)
                                && state.node_addresses.len() == 1
                        },
                    ),
                    (&["link set u0 down"], &|state| role(state, "u0") == Some(Role::Pod)),
                    (&["addr del 192.0.2.1/24 dev u0"], &|state| state.node_addresses.is_empty()),
                    (&["link del late"], &|state| role(state, "late").is_none()),
                ];
                for (lines, arrived) in steps {
                    ip(lines).unwrap();
                    let wait = async {
                        while !arrived(watcher.state()) {
                            watcher.changed().await.unwrap();
                        }
                    };
                    tokio::time::timeout(LIMIT, wait).await.expect(lines[0]);
                }
                assert!(!watcher.set_uplink_addresses(["192.0.2.9".parse().unwrap()].into()));
            });
        })
        .unwrap();
}

#[test]
fn a_new_interface_has_its_programs_within_milliseconds() {
    if !privilege::root_or_skip() {
        return;
    }
    let netns = namespace(&["link add name va type veth peer name vb"]);
    let pin_dir = Path::new("/sys/fs/bpf").join(netns.name());
    let sizes = MapSizes { flows_v4: 256, flows_v6: 256, ..MapSizes::default() };
    let options = HookOptions { sizes, ..HookOptions::new(&pin_dir) };
    let mut taken = netns
        .run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let mut watcher = NetworkWatcher::new(WatchOptions::default()).unwrap();
                let mut hooks = Hooks::open(&options).unwrap();
                hooks.sync(watcher.state());
                let mut taken = Vec::new();
                for number in 0..5 {
                    let name = format!("new{number}");
                    netns
                        .ip(&[format!("link add name {name} type veth peer name p{number}")])
                        .unwrap();
                    let begin = Instant::now();
                    while !hooks.status().iter().any(|status| status.interface == name) {
                        let state = tokio::time::timeout(LIMIT, watcher.changed()).await;
                        let report = hooks.sync(state.unwrap().unwrap());
                        assert_eq!(report.failures, Vec::<String>::new());
                    }
                    taken.push(begin.elapsed());
                }
                taken
            })
        })
        .unwrap();
    netns.run(|| cleanup(&pin_dir)).unwrap().unwrap();
    taken.sort();
    // Two interfaces appear at once. The kernel waits for every CPU each time
    // a first program is attached to a side of an interface; a busy machine
    // makes that long, so the bound is a loose one.
    assert!(taken[2] < Duration::from_millis(500), "{taken:?}");
    println!("a pair of interfaces had its programs after {taken:?}");
}
