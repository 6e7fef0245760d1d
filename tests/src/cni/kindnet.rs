//! kindnet: the plugin `ptp`, a route to each other node, and a table of nftables
//! that masquerades what leaves the cluster.

use crate::netfilter::Rules;
use crate::topology::{Layout, ROUTED};

/// As `kind` sets it up.
pub static KINDNET: Layout = Layout {
    rules: &[Rules::Nft(
        "table inet kindnet-ipmasq {
            set noMasqV4 {
                type ipv4_addr
                flags interval
                auto-merge
                elements = { 10.244.0.0/16 }
            }
            set noMasqV6 {
                type ipv6_addr
                flags interval
                auto-merge
                elements = { fd00:10:244::/48 }
            }
            chain postrouting {
                type nat hook postrouting priority srcnat - 10; policy accept;
                ct state established,related accept
                fib daddr type local accept
                ip daddr @noMasqV4 accept
                ip6 daddr @noMasqV6 accept
                masquerade
            }
        }",
    )],
    ..ROUTED
};
