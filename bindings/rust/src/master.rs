use crate::communicator::resolve;
use crate::error::{check, Error};
use crate::sys;
use std::ptr::{self, NonNull};

/// A master inside this process. Most runs use the program `pccl-master` instead, which can be started again. Dropping
/// it ends it.
#[derive(Debug)]
pub struct Master {
    native: NonNull<sys::pcclMasterInstance_t>,
    address: String,
}

// SAFETY: pccl.h: any thread may call any function but the destroying one, which is called by drop only.
unsafe impl Send for Master {}
// SAFETY: the same.
unsafe impl Sync for Master {}

impl Master {
    /// Does not open the port yet, which must not be 0.
    pub fn new(listen: impl Into<String>) -> Result<Master, Error> {
        let address = listen.into();
        let mut native = ptr::null_mut();
        // SAFETY: the pointer is to what lives through the call.
        check(unsafe { sys::pcclCreateMaster(resolve(&address)?, &mut native) }, || "pcclCreateMaster".into())?;
        let native = NonNull::new(native).expect("a success gives a master");
        Ok(Master { native, address })
    }

    /// Listens, on a thread of its own, and returns at once. `InvalidUsage` when the port is in use.
    pub fn run(&self) -> Result<(), Error> {
        // SAFETY: it is alive while it is borrowed; here and below.
        check(unsafe { sys::pcclRunMaster(self.native.as_ptr()) }, || format!("pcclRunMaster at {}", self.address))
    }

    /// Asks it to end. From any thread.
    pub fn interrupt(&self) -> Result<(), Error> {
        check(unsafe { sys::pcclInterruptMaster(self.native.as_ptr()) }, || "pcclInterruptMaster".into())
    }

    /// Blocks until it has ended.
    pub fn await_termination(&self) -> Result<(), Error> {
        check(unsafe { sys::pcclMasterAwaitTermination(self.native.as_ptr()) }, || "pcclMasterAwaitTermination".into())
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        // SAFETY: nobody borrows it any more.
        unsafe { sys::pcclDestroyMaster(self.native.as_ptr()) };
    }
}
