#![no_std]
#![no_main]
#![expect(missing_docs, reason = "entry points")]
use aya_ebpf::{macros::classifier, programs::TcContext};
#[classifier]
pub fn lb_ingress(_ctx: TcContext) -> i32 { -1 }
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! { loop {} }
