use crate::communicator::{Communicator, Flight};
use crate::error::Error;
use crate::types::{Element, ReduceInfo, ReduceOp, ReduceOptions};
use std::marker::PhantomData;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{Arc, Mutex, MutexGuard};

/// Where operations are begun that borrow their buffers: see [`Communicator::scope`].
///
/// Why this is sound. A buffer is borrowed for `'scope`, which outlasts the body that is given to `scope`, and every
/// operation is awaited before `scope` returns: by whoever waits for it, by its handle's drop, or, where that was
/// forgotten, by the scope itself. The one way to get at a buffer earlier is [`Operation::wait_for_buffer`], which
/// has awaited it.
#[derive(Debug)]
pub struct Scope<'scope, 'env: 'scope> {
    communicator: &'env Communicator,
    flying: Arc<Flying>,
    // Invariant in both, as in std::thread::Scope: 'scope must not be shrunk to something that ends earlier.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

/// What was begun in a scope and not awaited yet.
#[derive(Debug, Default)]
struct Flying {
    flights: Mutex<Vec<Arc<Slot>>>,
}

/// A flight, until somebody takes it to await it.
#[derive(Default)]
struct Slot(Mutex<Option<Flight>>);

impl std::fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*lock(&self.0) {
            Some(flight) => write!(formatter, "tag {}", flight.tag()),
            None => write!(formatter, "ended"),
        }
    }
}

// SAFETY: a flight is a tag and the communicator's pointer; any thread may await it.
unsafe impl Send for Flight {}

/// A lock that a panic elsewhere does not take away: nothing is done under it that could leave things halfway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Slot {
    /// Awaits it, unless somebody has. The lock is held meanwhile, so that whoever comes second returns when it has
    /// ended, and not before.
    fn land(&self) -> Option<Result<ReduceInfo, Error>> {
        let mut flight = lock(&self.0);
        // SAFETY: the communicator is borrowed for longer than the scope, and a flight is taken once.
        flight.take().map(|flight| unsafe { flight.land() })
    }
}

pub(crate) fn run_scope<'env, F, R>(communicator: &'env Communicator, body: F) -> R
where
    F: for<'scope> FnOnce(&'scope Scope<'scope, 'env>) -> R,
{
    let scope = Scope { communicator, flying: Arc::default(), scope: PhantomData, env: PhantomData };
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&scope)));
    let left = std::mem::take(&mut *lock(&scope.flying.flights));
    for slot in left {
        slot.land();
    }
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

impl<'scope, 'env> Scope<'scope, 'env> {
    /// Begins to reduce in place.
    pub fn all_reduce<T: Element>(
        &'scope self,
        buffer: &'scope mut [T],
        op: ReduceOp,
        options: &ReduceOptions,
    ) -> Result<Operation<'scope, T>, Error> {
        let (elements, count) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: here and below: the buffers are borrowed for 'scope, and the scope ends when the flight has landed.
        let flight = unsafe { self.communicator.begin_all_reduce(elements, elements, count, op, options)? };
        Ok(self.fly(flight, buffer))
    }

    /// Begins to reduce from one buffer into another of the same length.
    pub fn all_reduce_into<T: Element>(
        &'scope self,
        send: &'scope [T],
        receive: &'scope mut [T],
        op: ReduceOp,
        options: &ReduceOptions,
    ) -> Result<Operation<'scope, T>, Error> {
        if send.len() != receive.len() {
            return Err(Error::invalid_argument(format!(
                "all_reduce_into: {} elements to send, and room for {}",
                send.len(),
                receive.len()
            )));
        }
        let (into, count) = (receive.as_mut_ptr(), receive.len());
        let flight = unsafe { self.communicator.begin_all_reduce(send.as_ptr(), into, count, op, options)? };
        Ok(self.fly(flight, receive))
    }

    /// Begins an all-gather: [`Communicator::all_gather`].
    pub fn all_gather<T: Element>(
        &'scope self,
        send: &'scope [T],
        receive: &'scope mut [T],
        options: &ReduceOptions,
    ) -> Result<Operation<'scope, T>, Error> {
        let (into, count) = (receive.as_mut_ptr(), receive.len());
        let flight = unsafe { self.communicator.begin_all_gather(send.as_ptr(), send.len(), into, count, options)? };
        Ok(self.fly(flight, receive))
    }

    /// Begins a reduce-scatter: [`Communicator::reduce_scatter`].
    pub fn reduce_scatter<T: Element>(
        &'scope self,
        send: &'scope [T],
        receive: &'scope mut [T],
        op: ReduceOp,
        options: &ReduceOptions,
    ) -> Result<Operation<'scope, T>, Error> {
        let (from, into, count) = (send.as_ptr(), receive.as_mut_ptr(), receive.len());
        let flight = unsafe { self.communicator.begin_reduce_scatter(from, send.len(), into, count, op, options)? };
        Ok(self.fly(flight, receive))
    }

    /// Begins a broadcast: [`Communicator::broadcast`].
    pub fn broadcast<T: Element>(
        &'scope self,
        buffer: &'scope mut [T],
        root: u32,
        options: &ReduceOptions,
    ) -> Result<Operation<'scope, T>, Error> {
        let flight = unsafe { self.communicator.begin_broadcast(buffer.as_mut_ptr(), buffer.len(), root, options)? };
        Ok(self.fly(flight, buffer))
    }

    fn fly<T>(&self, flight: Flight, buffer: &'scope mut [T]) -> Operation<'scope, T> {
        let slot = Arc::new(Slot(Mutex::new(Some(flight))));
        lock(&self.flying.flights).push(slot.clone());
        Operation {
            slot,
            flying: self.flying.clone(),
            elements: buffer.as_mut_ptr(),
            count: buffer.len(),
            buffer: PhantomData,
        }
    }
}

/// An operation in flight, which has its buffers until it has ended. Dropping it waits, and says nothing of the
/// outcome.
#[must_use = "dropping it waits for the operation, and does not tell how it ended"]
#[derive(Debug)]
pub struct Operation<'scope, T> {
    slot: Arc<Slot>,
    flying: Arc<Flying>,
    // Not a reference, which nobody else may write through while it exists.
    elements: *mut T,
    count: usize,
    buffer: PhantomData<&'scope mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, and any thread may await an operation.
unsafe impl<T: Send> Send for Operation<'_, T> {}
// SAFETY: through a shared reference nothing can be done with it.
unsafe impl<T: Sync> Sync for Operation<'_, T> {}

impl<'scope, T> Operation<'scope, T> {
    /// Waits until it has ended. The buffers can be used again when the scope has ended.
    pub fn wait(self) -> Result<ReduceInfo, Error> {
        self.land().expect("an operation is waited for once")
    }

    /// Waits until it has ended, and gives back the buffer of the result, whatever it came to.
    pub fn wait_for_buffer(self) -> (Result<ReduceInfo, Error>, &'scope mut [T]) {
        let outcome = self.land().expect("an operation is waited for once");
        // SAFETY: it has ended, so nobody else writes there; it was borrowed for 'scope, and is given away once.
        (outcome, unsafe { std::slice::from_raw_parts_mut(self.elements, self.count) })
    }

    fn land(&self) -> Option<Result<ReduceInfo, Error>> {
        let outcome = self.slot.land();
        if outcome.is_some() {
            lock(&self.flying.flights).retain(|slot| !Arc::ptr_eq(slot, &self.slot));
        }
        outcome
    }
}

impl<T> Drop for Operation<'_, T> {
    fn drop(&mut self) {
        self.land();
    }
}
