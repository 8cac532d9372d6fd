import CCUDA
import CShims
import Glibc
import PCCLBase
import Synchronization

/// A thread that has a device do things, in a context and on a stream of its own, so that nobody else has to wait for a device.
/// What it is asked for is done one after the other; several workers do it side by side.
///
/// Any thread may ask. The thread ends, after what it was asked for, when it is stopped, or nobody holds the worker any more.
package final class DeviceWorker: Sendable {
    package typealias Work = @Sendable (borrowing DeviceStream) throws(DeviceError) -> Void
    package typealias End = @Sendable (Result<Void, DeviceError>) -> Void

    private let queue: WorkQueue
    private let thread: pthread_t
    private let isStopped = Atomic(false)

    package init(at location: DeviceLocation, name: String) throws(DeviceError) {
        queue = WorkQueue(location: location, name: name)
        var thread = pthread_t()
        let code = pthread_create(&thread, nil, runDeviceWorker, Unmanaged.passRetained(queue).toOpaque())
        guard code == 0 else {
            Unmanaged.passUnretained(queue).release()
            throw DeviceError("pthread_create", code: CInt(pccl_cuda_out_of_memory), device: location.device)
        }
        self.thread = thread
    }

    deinit {
        guard !isStopped.load(ordering: .relaxed) else { return }
        queue.add(.stop)
        pthread_detach(thread)
    }

    /// Returns when the thread has ended. Once, and nothing is asked for afterwards.
    package func stop() {
        guard !isStopped.exchange(true, ordering: .relaxed) else { return }
        queue.add(.stop)
        pthread_join(thread, nil)
    }

    /// `end` is called on the worker's thread, when what the device was asked for is done or has failed.
    package func submit(_ work: @escaping Work, then end: @escaping End) { queue.add(.work(work, end)) }

    /// Blocks until it is done.
    package func perform(_ work: @escaping Work) throws(DeviceError) {
        let outcome = Awaited<Result<Void, DeviceError>?>(nil)
        submit(work) { result in outcome.change { $0 = result } }
        try outcome.wait { $0 }.get()
    }

    /// Blocks until all that was asked for before is done.
    package func drain() { try? perform { (_) throws(DeviceError) in } }
}

/// The stream of a worker, whose context is current.
package struct DeviceStream: ~Copyable {
    fileprivate let stream: OpaquePointer
    fileprivate let device: Int

    fileprivate init(device: Int) throws(DeviceError) {
        var stream: OpaquePointer?
        let code = pccl_cuda_stream_create(&stream, UInt32(pccl_cuda_stream_non_blocking))
        guard code == pccl_cuda_success, let stream else {
            throw DeviceError("cuStreamCreate", code: code, device: device)
        }
        self.stream = stream
        self.device = device
    }

    deinit { pccl_cuda_stream_destroy(stream) }

    private func check(_ code: CInt, _ call: String) throws(DeviceError) {
        try DeviceDriver.check(code, call, device: device)
    }

    /// All of these are on the device.
    package func copy(_ to: UInt, from: UInt, _ count: Int) throws(DeviceError) {
        try check(
            pccl_cuda_copy_on_device(pccl_cuda_pointer(to), pccl_cuda_pointer(from), count, stream),
            "cuMemcpyDtoDAsync")
    }

    /// To memory of the host.
    package func read(_ to: UnsafeMutableRawPointer, from: UInt, _ count: Int) throws(DeviceError) {
        try check(pccl_cuda_copy_to_host(to, pccl_cuda_pointer(from), count, stream), "cuMemcpyDtoHAsync")
    }

    /// From memory of the host.
    package func write(_ to: UInt, from: UnsafeRawPointer, _ count: Int) throws(DeviceError) {
        try check(pccl_cuda_copy_to_device(pccl_cuda_pointer(to), from, count, stream), "cuMemcpyHtoDAsync")
    }

    /// `to`, on the device, gets the reduction of `count` elements of each input, in their order. `table`, on the device too,
    /// has room for their addresses. Blocks until it is done.
    package func reduce(
        _ reducer: DeviceReducer, _ inputs: [UInt], table: UInt, into to: UInt, count: Int
    ) throws(DeviceError) {
        let addresses = inputs.map { pccl_cuda_pointer($0) }
        do throws(DeviceError) {
            let bytes = addresses.count * MemoryLayout<pccl_cuda_pointer>.stride
            try check(
                addresses.withUnsafeBytes {
                    pccl_cuda_copy_to_device(
                        pccl_cuda_pointer(table), $0.baseAddress.unsafelyUnwrapped, bytes, stream)
                }, "cuMemcpyHtoDAsync")
            try check(
                reducer.launch(pccl_cuda_pointer(to), pccl_cuda_pointer(table), addresses.count, count, stream),
                "cuLaunchKernel")
        } catch {
            // The addresses are read until then.
            try? finish()
            withExtendedLifetime(addresses) {}
            throw error
        }
        try finish()
        withExtendedLifetime(addresses) {}
    }

    /// The same for addresses that are in the table already, and without waiting.
    func launch(
        _ reducer: DeviceReducer, table: UInt, inputCount: Int, into to: UInt, count: Int
    ) throws(DeviceError) {
        try check(
            reducer.launch(pccl_cuda_pointer(to), pccl_cuda_pointer(table), inputCount, count, stream), "cuLaunchKernel"
        )
    }

    func run(_ launch: DeviceQueue.Launch) throws(DeviceError) {
        try check(launch.enqueue(on: stream), "cuLaunchKernel")
    }

    /// Blocks until all that was asked for is done.
    func finish() throws(DeviceError) {
        try check(pccl_cuda_stream_synchronize(stream), "cuStreamSynchronize")
    }
}

// MARK: - the thread

/// What the worker and its thread have in common.
private final class WorkQueue: @unchecked Sendable {
    enum Item {
        case work(DeviceWorker.Work, DeviceWorker.End)
        case stop
    }
    let location: DeviceLocation
    let name: String
    private let items = Awaited<[Item]>([])

    init(location: DeviceLocation, name: String) {
        self.location = location
        self.name = name
    }

    func add(_ item: Item) { items.change { $0.append(item) } }
    private func take() -> Item { items.wait { $0.isEmpty ? nil : $0.removeFirst() } }

    func run() {
        let run = Result { () throws(DeviceError) in
            try location.inContext { () throws(DeviceError) in
                let stream = try DeviceStream(device: location.device)
                while next({ (work) throws(DeviceError) in
                    do throws(DeviceError) {
                        try work(stream)
                    } catch {
                        // What was begun may write to memory that is somebody else's when this has ended.
                        try? stream.finish()
                        throw error
                    }
                    try stream.finish()
                }) {}
            }
        }
        // Without a stream nothing can be done, and who asks is told why.
        if case .failure(let error) = run { while next({ (_) throws(DeviceError) in throw error }) {} }
    }

    /// False when it is to stop. Holds nothing of the work when this returns: that may be the last to hold the worker.
    @inline(never)
    private func next(_ perform: (DeviceWorker.Work) throws(DeviceError) -> Void) -> Bool {
        guard case .work(let work, let end) = take() else { return false }
        end(Result { () throws(DeviceError) in try perform(work) })
        return true
    }
}

private func runDeviceWorker(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let argument else { return nil }
    // Signals belong to the host process' threads.
    var all = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_BLOCK, &all, nil)
    let queue = Unmanaged<WorkQueue>.fromOpaque(argument).takeRetainedValue()
    pccl_shim_name_thread(pthread_self(), queue.name)
    queue.run()
    return nil
}

/// A value that one thread changes and another one waits for.
private final class Awaited<Value>: @unchecked Sendable {
    private let mutex: UnsafeMutablePointer<pthread_mutex_t> = .allocate(capacity: 1)
    private let condition: UnsafeMutablePointer<pthread_cond_t> = .allocate(capacity: 1)
    private var value: Value

    init(_ value: Value) {
        self.value = value
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }
    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    func change(_ body: (inout Value) -> Void) {
        pthread_mutex_lock(mutex)
        body(&value)
        pthread_cond_signal(condition)
        pthread_mutex_unlock(mutex)
    }

    /// Blocks until there is what is looked for.
    func wait<Found>(_ look: (inout Value) -> Found?) -> Found {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while true {
            if let found = look(&value) { return found }
            pthread_cond_wait(condition, mutex)
        }
    }
}
