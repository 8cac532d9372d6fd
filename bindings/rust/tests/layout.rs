//! Each struct of `pccl::sys` has the size, the alignment and the members' offsets that the C compiler gives those of
//! the headers. The library's own `Tests/ABITests/layout.c` says what the numbers are.

use pccl::sys::*;
use std::fmt::Write as _;
use std::mem::{align_of, size_of, MaybeUninit};
use std::path::Path;
use std::process::Command;

/// What both sides say: a line for each struct and member, with C that prints it and Rust that makes it.
macro_rules! layouts {
    ($($name:ident { $($member:ident),* })*) => {{
        let (mut rust, mut c) = (String::new(), String::new());
        $(
            let name = stringify!($name);
            writeln!(rust, "{name} {} {}", size_of::<$name>(), align_of::<$name>()).unwrap();
            writeln!(c, r#"printf("{name} %zu %zu\n", sizeof({name}), _Alignof({name}));"#).unwrap();
            $({
                let (member, value) = (stringify!($member), MaybeUninit::<$name>::uninit());
                let start = value.as_ptr();
                // SAFETY: only addresses are taken, of memory that is there.
                let at = unsafe { std::ptr::addr_of!((*start).$member) } as usize - start as usize;
                writeln!(rust, "{name}.{member} {at}").unwrap();
                writeln!(c, r#"printf("{name}.{member} %zu\n", offsetof({name}, {member}));"#).unwrap();
            })*
        )*
        (rust, c)
    }};
}

fn values() -> (String, String) {
    let (mut rust, mut c) = (String::new(), String::new());
    let mut value = |name: &str, number: u32| {
        writeln!(rust, "{name} {number}").unwrap();
        writeln!(c, r#"printf("{name} %u\n", (unsigned)({name}));"#).unwrap();
    };
    value("pcclRankConnectionLost", pcclRankConnectionLost);
    value("pcclTopologyOptimizationFailed", pcclTopologyOptimizationFailed);
    value("PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE", PCCL_ATTRIBUTE_LARGEST_PEER_GROUP_WORLD_SIZE);
    value("inetIPv6", inetIPv6);
    value("pcclMin", pccl::ReduceOp::Minimum as u32);
    value("pcclAvg", pccl::ReduceOp::Average as u32);
    value("pcclOnLossUsual", pccl::OnLoss::Usual as u32);
    value("pcclCodecMinMax8", pccl::Codec::MinMax8 as u32);
    value("pcclCodecInt4", pccl::Codec::Int4 as u32);
    value("pcclCodecBFloat16", pccl::Codec::BFloat16 as u32);
    value("pcclRoundingStochastic", pccl::Rounding::Stochastic as u32);
    value("PCCL_SHARED_STATE_SYNC_STRATEGY_SEND_ONLY", pccl::Strategy::SendOnly as u32);
    value("sizeof(pcclResult_t)", size_of::<pcclResult_t>() as u32);
    (rust, c)
}

#[test]
fn structs_are_those_of_the_headers() {
    let headers = Path::new(env!("PCCL_INCLUDE_DIR"));
    assert!(headers.join("pccl.h").exists(), "there is no pccl.h in {}", headers.display());
    let (mut rust, mut body) = layouts! {
        ccoip_inet_address_t { protocol, ipv4, ipv6 }
        ccoip_socket_address_t { inet, port }
        pcclCommCreateParams_t { master_address, peer_group, p2p_connection_pool_size }
        pcclEnsemble_t { id, size, reserved }
        pcclReduceOperandDescriptor_t { datatype, distribution_hint }
        pcclQuantizationOptions_t { quantized_datatype, algorithm }
        pcclReduceDescriptor_t { count, op, tag, src_descriptor, quantization_options }
        pcclReduceOpDescriptor_t { sendbuf, recvbuf, descriptor }
        pcclReduceInfo_t { local_world_size, tx_bytes, rx_bytes }
        pcclAsyncReduceOp_t { comm, tag }
        pcclReducePart_t { first_element, element_count, world_size }
        pcclReduceOptions_t {
            struct_size, on_loss, codec, block_elements, rounding, error_feedback, reserved, cuda_stream
        }
        pcclCollectiveDescriptor_t { struct_size, tag, count, datatype, op, world_size, root, options }
        pcclTensorInfo_t { name, data, count, datatype, device_type, allow_content_inequality }
        pcclSharedState_t { revision, count, infos }
        pcclSharedStateSyncInfo_t { tx_bytes, rx_bytes }
        pcclSyncOptions_t { struct_size, unchanged }
    };
    let (numbers, more) = values();
    rust += &numbers;
    body += &more;

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, program) = (folder.join("layout.c"), folder.join("layout"));
    let text = format!(
        "#include <pccl.h>\n#include <pccl_ext.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\n{body}}}\n"
    );
    std::fs::write(&source, text).unwrap();
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let compiled = Command::new(compiler).arg("-I").arg(headers).arg(&source).arg("-o").arg(&program).status().unwrap();
    assert!(compiled.success());
    let answer = Command::new(&program).output().unwrap();
    assert_eq!(rust, String::from_utf8(answer.stdout).unwrap());
}
