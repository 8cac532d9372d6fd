import CShims
import CUV
import Glibc
import PCCLBase

/// A thread that runs a libuv loop. Everything bound to a loop (sockets, timers, the engine) is touched by its thread
/// alone; other threads hand in jobs.
///
/// A *turn* is one callback from libuv. Work asked for with `atEndOfTurn` runs before the next one, so that many small
/// causes (forty segments arrived) have one effect (the link is written once), and no callback is re-entered.
package final class EventLoop: @unchecked Sendable {
    private struct Inbox {
        var jobs: [@Sendable () -> Void] = []
        var isClosed = false
    }

    let loop: UnsafeMutablePointer<uv_loop_t>
    private let wakeUp: UnsafeMutablePointer<uv_async_t>
    private let inbox = Guarded(Inbox())
    private var thread = pthread_t()
    private var isStopping = false
    private var isOpen = false
    private let forkGeneration = pccl_shim_fork_generation()
    private var endOfTurn: [() -> Void] = []
    private var nextTurn: [() -> Void] = []
    private var lingering: [ObjectIdentifier: () -> Void] = [:]

    /// Starts the thread. Fails when the system has no more threads or descriptors.
    package init(name: String) throws(SystemError) {
        loop = .allocate(capacity: 1)
        wakeUp = .allocate(capacity: 1)
        let status = uv_loop_init(loop)
        guard status == 0 else { throw SystemError(code: -status, doing: "making an event loop") }
        isOpen = true
        uv_async_init(loop, wakeUp) { handle in
            guard let data = handle?.pointee.data else { return }
            Unmanaged<EventLoop>.fromOpaque(data).takeUnretainedValue().runJobs()
        }
        wakeUp.pointee.data = Unmanaged.passUnretained(self).toOpaque()
        let code = pthread_create(&thread, nil, runEventLoop, Unmanaged.passRetained(self).toOpaque())
        guard code == 0 else {
            Unmanaged.passUnretained(self).release()
            uv_close(UnsafeMutableRawPointer(wakeUp).assumingMemoryBound(to: uv_handle_t.self), nil)
            uv_run(loop, UV_RUN_DEFAULT)
            throw SystemError(code: code, doing: "starting a thread")
        }
        pccl_shim_name_thread(thread, name)
    }

    deinit {
        if isOpen, !isInChild { uv_loop_close(loop) }
        loop.deallocate()
        wakeUp.deallocate()
    }

    /// The process that made this loop has forked, and this is the child: it has a copy of everything but the thread.
    private var isInChild: Bool { forkGeneration != pccl_shim_fork_generation() }

    /// Runs the job on the loop's thread, in the order of submission. Returns false, and drops the job, once the loop is
    /// stopping, and in a forked child.
    @discardableResult
    package func submit(_ job: @escaping @Sendable () -> Void) -> Bool {
        // Before the lock, which another thread of the parent may have held.
        guard !isInChild else { return false }
        return inbox.withLock { inbox in
            if inbox.isClosed { return false }
            inbox.jobs.append(job)
            // Sent under the lock: `stop` closes the inbox under it before the handle goes.
            if inbox.jobs.count == 1 { uv_async_send(wakeUp) }
            return true
        }
    }

    /// Runs what was submitted before, ends the loop and joins the thread. The owner has closed its handles in a job.
    package func stop() {
        guard !isInChild else { return }
        // In one go: a job taken after the one that ends the loop would never run.
        inbox.withLock { inbox in
            inbox.jobs.append { [self] in isStopping = true }
            inbox.isClosed = true
            if inbox.jobs.count == 1 { uv_async_send(wakeUp) }
        }
        if pthread_equal(pthread_self(), thread) != 0 {
            pthread_detach(thread)
        } else {
            pthread_join(thread, nil)
        }
    }

    package var now: Instant { EventLoop.now }

    package static var now: Instant {
        var t = timespec()
        clock_gettime(CLOCK_MONOTONIC, &t)
        return Instant(nanoseconds: UInt64(t.tv_sec) * 1_000_000_000 + UInt64(t.tv_nsec))
    }

    /// On the loop's thread: run before the present turn ends.
    package func atEndOfTurn(_ work: @escaping () -> Void) { endOfTurn.append(work) }

    /// On the loop's thread: run after the sockets have been looked at again. Not at all if the loop stops before.
    func inNextTurn(_ work: @escaping () -> Void) {
        nextTurn.append(work)
        if nextTurn.count == 1 { uv_async_send(wakeUp) }
    }

    /// On the loop's thread: keeps the object, which nobody else holds, until it is let go. `end` is called if the loop
    /// stops before.
    func keep(_ object: AnyObject, _ end: @escaping () -> Void) {
        lingering[ObjectIdentifier(object)] = {
            end()
            withExtendedLifetime(object) {}
        }
    }

    /// Not so many yet that strangers could use up what others need.
    var mayLinger: Bool { lingering.count < EventLoop.lingeringLimit }
    private static let lingeringLimit = 64

    func letGo(_ object: AnyObject) { lingering[ObjectIdentifier(object)] = nil }

    /// Wraps every callback from libuv.
    func turn(_ body: () -> Void) {
        body()
        while !endOfTurn.isEmpty {
            let work = endOfTurn
            endOfTurn = []
            for item in work { item() }
        }
    }

    private func runJobs() {
        let jobs = inbox.withLock { inbox in
            defer { inbox.jobs = [] }
            return inbox.jobs
        }
        for job in jobs { turn(job) }
        let deferred = nextTurn
        nextTurn = []
        for work in deferred { turn(work) }
        if isStopping {
            let ends = Array(lingering.values)
            lingering = [:]
            for end in ends { turn(end) }
            uv_close(UnsafeMutableRawPointer(wakeUp).assumingMemoryBound(to: uv_handle_t.self), nil)
            // A handle that is still open, of a connection that waits to be written, must not keep the thread.
            uv_stop(loop)
        }
    }

    fileprivate func run() {
        uv_run(loop, UV_RUN_DEFAULT)
        uv_run(loop, UV_RUN_NOWAIT)  // For what was closed last.
    }
}

// A global function: a closure passed to pthread_create inherits its context's isolation and may trap at run time.
private func runEventLoop(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let argument else { return nil }
    // Signals belong to the host process' threads.
    var all = sigset_t()
    sigfillset(&all)
    pthread_sigmask(SIG_BLOCK, &all, nil)
    // A new thread inherits the floating-point environment of its maker, which may flush subnormals to zero: results
    // would then differ from those of other peers.
    fesetenv(pccl_shim_default_floating_point_environment())
    Unmanaged<EventLoop>.fromOpaque(argument).takeRetainedValue().run()
    return nil
}

/// A one-shot timer of a loop. Its last reference goes on the loop's thread.
///
/// A timer that comes late has seen its process stopped or starved, and whoever judges by the clock then would judge by
/// old news: what the others said meanwhile still lies in the sockets. So it lets the loop read first.
package final class LoopTimer {
    private let handle: UnsafeMutablePointer<uv_timer_t>
    private let loop: EventLoop
    private let action: () -> Void
    private var isClosed = false
    private var due = Instant(nanoseconds: 0)
    private var hasLetRead = false

    private static let lateness = Interval.milliseconds(50)
    private static let readingTime: UInt64 = 5

    package init(_ loop: EventLoop, _ action: @escaping () -> Void) {
        self.loop = loop
        self.action = action
        handle = .allocate(capacity: 1)
        uv_timer_init(loop.loop, handle)
        handle.pointee.data = Unmanaged.passUnretained(self).toOpaque()
    }

    deinit { close() }

    /// Replaces an earlier setting.
    package func fire(at instant: Instant) {
        guard !isClosed else { return }
        due = instant
        hasLetRead = false
        // Rounded up: a timer that fires early would be asked for again at once. One more, because libuv counts from a
        // clock that it has rounded down; also for what is due: libuv runs a timer that is due already before it looks at
        // any socket, again and again if it is always set anew.
        start(milliseconds: ((instant - loop.now).nanoseconds + 999_999) / 1_000_000 + 1)
    }

    private func start(milliseconds: UInt64) {
        uv_update_time(loop.loop)
        uv_timer_start(
            handle,
            { handle in
                guard let data = handle?.pointee.data else { return }
                Unmanaged<LoopTimer>.fromOpaque(data).takeUnretainedValue().expire()
            }, milliseconds, 0)
    }

    private func expire() {
        if !hasLetRead, loop.now - due > LoopTimer.lateness {
            hasLetRead = true
            return start(milliseconds: LoopTimer.readingTime)
        }
        loop.turn(action)
    }

    package func cancel() { if !isClosed { uv_timer_stop(handle) } }

    package func close() {
        guard !isClosed else { return }
        isClosed = true
        uv_close(UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self)) { $0?.deallocate() }
    }
}

/// Watches one descriptor. Level-triggered: what is not consumed is reported again. Its last reference goes on the
/// loop's thread.
package final class Poll {
    package struct Interest: OptionSet {
        package let rawValue: Int32
        package init(rawValue: Int32) { self.rawValue = rawValue }
        package static let read = Interest(rawValue: Int32(UV_READABLE.rawValue))
        package static let write = Interest(rawValue: Int32(UV_WRITABLE.rawValue))
    }

    private let handle: UnsafeMutablePointer<uv_poll_t>
    private let loop: EventLoop
    private let action: (Interest) -> Void
    private var interest: Interest = []
    private var isClosed = false

    /// Nil when the descriptor cannot be watched.
    package init?(_ loop: EventLoop, descriptor: CInt, _ action: @escaping (Interest) -> Void) {
        self.loop = loop
        self.action = action
        handle = .allocate(capacity: 1)
        guard uv_poll_init(loop.loop, handle, descriptor) == 0 else {
            handle.deallocate()
            return nil
        }
        handle.pointee.data = Unmanaged.passUnretained(self).toOpaque()
    }

    deinit { close() }

    package func watch(_ wanted: Interest) {
        guard !isClosed, wanted != interest else { return }
        interest = wanted
        if wanted.isEmpty { uv_poll_stop(handle) } else { start() }
    }

    private func start() {
        uv_poll_start(handle, interest.rawValue) { handle, status, events in
            guard let data = handle?.pointee.data else { return }
            let poll = Unmanaged<Poll>.fromOpaque(data).takeUnretainedValue()
            var ready = Interest(rawValue: events)
            if status < 0 {
                // An error is reported by the read or write that it makes fail. libuv watches no more after one, but
                // what arrived before the error may take more than one read.
                ready = poll.interest
                poll.start()
            }
            poll.loop.turn { withExtendedLifetime(poll) { poll.action(ready) } }
        }
    }

    /// The descriptor may be closed as soon as this returns.
    package func close() {
        guard !isClosed else { return }
        isClosed = true
        uv_close(UnsafeMutableRawPointer(handle).assumingMemoryBound(to: uv_handle_t.self)) { $0?.deallocate() }
    }
}
