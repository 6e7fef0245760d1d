//! Any text as a manifest: nothing panics, and what gets through the checks
//! fits into the maps.
#![no_main]

use lb_userspace::desired::{CompileOptions, compile};
use lb_userspace::source::manifests::read_text;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for file in ["a.yaml", "a.json"] {
        let snapshot = read_text(file, text);
        let options = CompileOptions { node_name: Some("n1".into()), ..Default::default() };
        let (desired, problems) = compile(&snapshot.objects, &options);
        for (key, service) in &desired.services {
            for name in [&key.namespace, &key.name, &key.port_name] {
                assert!(name.len() <= 63 && !name.contains(|c: char| c.is_control()));
            }
            assert_ne!(service.port, 0);
            assert_ne!(service.node_port, Some(0));
            assert!(!service.cluster_ips.is_empty() || service.node_port.is_some());
            assert!(service.backends.is_sorted_by(|a, b| (a.addr, a.port) < (b.addr, b.port)));
            assert!(service.backends.iter().all(|backend| backend.port != 0));
        }
        for problem in snapshot.problems.iter().chain(&problems) {
            assert!(!problem.to_string().contains(|c: char| c.is_control()));
        }
    }
});
