import Glibc

/// A value behind a POSIX mutex.
///
/// `Synchronization.Mutex` would do, but on Linux it is built on a bare futex which the thread sanitizer cannot see: it
/// reports every access under it as a race (docs/decisions/0001). This one it understands.
package final class Guarded<Value>: @unchecked Sendable {
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private var value: Value

    package init(_ value: Value) {
        self.value = value
        mutex = .allocate(capacity: 1)
        pthread_mutex_init(mutex, nil)
    }
    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    package func withLock<R>(_ body: (inout Value) -> R) -> R {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return body(&value)
    }
}

/// A result that one thread sets once, and any number of threads wait for.
package final class Completion<Value: Sendable>: @unchecked Sendable {
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>
    private var value: Value?
    private var observers: [@Sendable (Value) -> Void] = []

    package init() {
        mutex = .allocate(capacity: 1)
        condition = .allocate(capacity: 1)
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }
    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    /// Later values are dropped: the first one stands.
    package func set(_ newValue: Value) {
        pthread_mutex_lock(mutex)
        let isFirst = value == nil
        if isFirst { value = newValue }
        let observers = self.observers
        self.observers = []
        pthread_cond_broadcast(condition)
        pthread_mutex_unlock(mutex)
        if isFirst { for observer in observers { observer(newValue) } }
    }

    /// Calls back once, with the value: at once if it is there, else on the thread that sets it.
    package func whenSet(_ observer: @escaping @Sendable (Value) -> Void) {
        pthread_mutex_lock(mutex)
        let present = value
        if present == nil { observers.append(observer) }
        pthread_mutex_unlock(mutex)
        if let present { observer(present) }
    }

    /// Suspends the task, and blocks no thread.
    package func outcome() async -> Value {
        await withCheckedContinuation { continuation in whenSet { continuation.resume(returning: $0) } }
    }

    package func wait() -> Value {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while true {
            if let value { return value }
            pthread_cond_wait(condition, mutex)
        }
    }

    package var current: Value? {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return value
    }
}
