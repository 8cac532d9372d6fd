import Glibc
import PCCLTransport

/// Thrown instead of waiting for ever. The limit is far away: it turns a hang into a failure and says nothing about speed.
package struct Stuck: Error, CustomStringConvertible {
    package var waitingFor: String
    package init(waitingFor: String) { self.waitingFor = waitingFor }
    package var description: String { "gave up waiting for \(waitingFor)" }
}

package let patienceSeconds = 100

/// Values from other threads, in the order in which they were put in.
package final class Mailbox<Value: Sendable>: @unchecked Sendable {
    private let name: String
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>
    private var values: [Value] = []
    private var taken = 0

    package init(_ name: String) {
        self.name = name
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

    package func put(_ value: Value) {
        pthread_mutex_lock(mutex)
        values.append(value)
        pthread_cond_broadcast(condition)
        pthread_mutex_unlock(mutex)
    }

    /// The oldest value that nobody took; waits for one.
    package func take() throws -> Value {
        try locked {
            try waitLocked { values.count > taken }
            taken += 1
            return values[taken - 1]
        }
    }

    /// The next that fits; those before it are passed over.
    package func take(where fits: (Value) -> Bool) throws -> Value {
        while true {
            let value = try take()
            if fits(value) { return value }
        }
    }

    package func take(_ count: Int) throws -> [Value] { try (0..<count).map { _ in try take() } }

    /// Waits until all that was ever put in satisfies this.
    package func waitUntil(_ condition: ([Value]) -> Bool) throws {
        try locked { try waitLocked { condition(values) } }
    }

    /// What was put in until now and was not taken.
    package var waiting: [Value] { locked { Array(values[taken...]) } }
    package var all: [Value] { locked { values } }

    private func locked<R>(_ body: () throws -> R) rethrows -> R {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        return try body()
    }

    private func waitLocked(until isDone: () -> Bool) throws {
        var limit = timespec()
        clock_gettime(CLOCK_REALTIME, &limit)
        limit.tv_sec += patienceSeconds
        while !isDone() {
            if pthread_cond_timedwait(condition, mutex, &limit) == ETIMEDOUT {
                throw Stuck(waitingFor: "\(name); until now: \(values.suffix(20))")
            }
        }
    }
}

extension Completion {
    /// Like `wait`, but not for ever.
    package func value(_ name: String = "a completion") throws -> Value {
        let mailbox = Mailbox<Value>(name)
        whenSet { mailbox.put($0) }
        return try mailbox.take()
    }
}
