import PCCLBase

/// A set of peers that iterates in the same order in every process, as replay needs.
package struct SortedPeers: Hashable, Sendable, Sequence, CustomStringConvertible {
    package private(set) var array: [PeerID] = []
    package init() {}
    package init(_ peers: some Sequence<PeerID>) {
        for peer in peers { insert(peer) }
    }

    package var isEmpty: Bool { array.isEmpty }
    package var count: Int { array.count }
    package func makeIterator() -> [PeerID].Iterator { array.makeIterator() }
    package func contains(_ peer: PeerID) -> Bool {
        let index = position(of: peer)
        return index < array.count && array[index] == peer
    }
    /// Returns false if the peer was there already.
    @discardableResult
    package mutating func insert(_ peer: PeerID) -> Bool {
        let index = position(of: peer)
        if index < array.count && array[index] == peer { return false }
        array.insert(peer, at: index)
        return true
    }
    @discardableResult
    package mutating func remove(_ peer: PeerID) -> Bool {
        let index = position(of: peer)
        guard index < array.count && array[index] == peer else { return false }
        array.remove(at: index)
        return true
    }
    package mutating func removeAll() { array.removeAll() }
    package func isSuperset(of peers: some Sequence<PeerID>) -> Bool { peers.allSatisfy(contains) }
    package var description: String { array.map { String($0.value) }.joined(separator: ", ") }

    private func position(of peer: PeerID) -> Int {
        var low = 0
        var high = array.count
        while low < high {
            let middle = (low + high) / 2
            if array[middle] < peer { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
