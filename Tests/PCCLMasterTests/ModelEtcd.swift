import PCCLBase

@testable import pccl_master

/// As much of etcd as is asked of it, with a clock that the test moves.
struct ModelEtcd {
    private(set) var revision: Int64 = 1
    private(set) var keys: [String: EtcdValue] = [:]
    private var leases: [Int64: (length: Interval, end: Instant)] = [:]
    private var nextLease: Int64 = 100
    /// Says no to whatever writes.
    var isFull = false

    mutating func answer(_ request: EtcdRequest, at now: Instant) -> Result<EtcdAnswer, EtcdFailure> {
        expireLeases(at: now)
        switch request {
        case .grantLease(let seconds):
            defer { nextLease += 1 }
            leases[nextLease] = (.seconds(Double(seconds)), now + .seconds(Double(seconds)))
            return .success(.granted(lease: nextLease, seconds: seconds))
        case .keepAlive(let lease):
            guard let length = leases[lease]?.length else { return .success(.keptAlive(seconds: 0)) }
            leases[lease] = (length, now + length)
            return .success(.keptAlive(seconds: Int(length.seconds)))
        case .revoke(let lease):
            guard leases[lease] != nil else { return .failure(.refused("requested lease not found")) }
            end(lease)
            return .success(.revoked)
        case .get(let key): return .success(.found(keys[key]))
        case .transact(let transaction): return transact(transaction)
        }
    }

    private mutating func transact(_ transaction: EtcdTransaction) -> Result<EtcdAnswer, EtcdFailure> {
        let holds = transaction.conditions.allSatisfy { condition in
            switch condition {
            case .made(let key, let revision): (keys[key]?.madeAt ?? 0) == revision
            case .written(let key, let revision): (keys[key]?.writtenAt ?? 0) == revision
            }
        }
        let operations = holds ? transaction.then : transaction.otherwise
        for case .put(_, _, let lease) in operations where lease != 0 && leases[lease] == nil {
            return .failure(.refused("requested lease not found"))
        }
        let next = revision + 1
        var found: [EtcdValue?] = []
        for operation in operations {
            switch operation {
            case .put(let key, let value, let lease):
                if isFull { return .failure(.refused("mvcc: database space exceeded")) }
                keys[key] = EtcdValue(bytes: value, madeAt: keys[key]?.madeAt ?? next, writtenAt: next, lease: lease)
                revision = next
            case .get(let key): found.append(keys[key])
            case .delete(let first, let end):
                for key in keys.keys where first <= key && key < end {
                    keys[key] = nil
                    revision = next
                }
            }
        }
        return .success(.transacted(isDone: holds, revision: revision, found: found))
    }

    mutating func expireLeases(at now: Instant) {
        for (lease, entry) in leases where entry.end <= now { end(lease) }
    }

    private mutating func end(_ lease: Int64) {
        leases[lease] = nil
        for (key, value) in keys where value.lease == lease {
            keys[key] = nil
            revision += 1
        }
    }

    /// As after a restart: leases last as long as if they had just been renewed.
    mutating func restart(at now: Instant) {
        for (lease, entry) in leases { leases[lease] = (entry.length, now + entry.length) }
    }

    mutating func corrupt(_ key: String, _ bytes: [UInt8]) {
        revision += 1
        keys[key] = EtcdValue(bytes: bytes, madeAt: keys[key]?.madeAt ?? revision, writtenAt: revision, lease: 0)
    }
}
