//! What a PVH guest is told in parameters: `hvm/hvm_op.h`, `hvm/params.h`.

use super::call::{Call, operation};
use super::{DOMID_SELF, Errno};

const GET_PARAM: usize = 1;

/// A parameter, `HVM_PARAM_*`.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum Parameter {
    StorePage = 1,
    StorePort = 2,
    ConsolePage = 17,
    ConsolePort = 18,
}

/// ```c
/// struct xen_hvm_param { domid_t domid; uint16_t pad; uint32_t index; uint64_t value; };
/// ```
#[repr(C)]
struct HvmParam {
    domain: u16,
    padding: u16,
    index: u32,
    value: u64,
}

/// The value of a parameter.
#[allow(unsafe_code, reason = "a hypercall")]
pub(crate) fn parameter(parameter: Parameter) -> Result<u64, Errno> {
    let mut argument = HvmParam {
        domain: DOMID_SELF,
        padding: 0,
        index: parameter as u32,
        value: 0,
    };
    // SAFETY: `HVMOP_get_param` takes this structure.
    unsafe { operation(Call::HvmOp, GET_PARAM, &mut argument) }?;
    Ok(argument.value)
}
