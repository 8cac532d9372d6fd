import PCCLBase
import PCCLMembership
import Testing

@Suite("Sorted peers")
struct SortedPeersTests {
    private func peers(_ values: UInt64...) -> [PeerID] { values.map { PeerID($0) } }

    @Test("they iterate in the order of their ids, each once, however they came")
    func order() {
        let sorted = SortedPeers(peers(5, 1, 3, 1, 4, 5, 2))
        #expect(Array(sorted) == peers(1, 2, 3, 4, 5))
        #expect(sorted.count == 5)
        #expect(sorted == SortedPeers(peers(1, 2, 3, 4, 5)))
        #expect(sorted.description == "1, 2, 3, 4, 5")
    }

    @Test("inserting and removing say whether anything changed")
    func changes() {
        var sorted = SortedPeers()
        #expect(sorted.isEmpty)
        let inserted = [sorted.insert(PeerID(7)), sorted.insert(PeerID(7))]
        #expect(inserted == [true, false])
        #expect(sorted.contains(PeerID(7)))
        #expect(!sorted.contains(PeerID(6)) && !sorted.contains(PeerID(8)))
        let removed = [sorted.remove(PeerID(6)), sorted.remove(PeerID(7)), sorted.remove(PeerID(7))]
        #expect(removed == [false, true, false])
        #expect(sorted.isEmpty)
    }

    @Test("a set is a superset of what it holds, and everything is one of nothing")
    func supersets() {
        let sorted = SortedPeers(peers(1, 2, 3))
        #expect(sorted.isSuperset(of: peers(3, 1)))
        #expect(!sorted.isSuperset(of: peers(1, 4)))
        #expect(SortedPeers().isSuperset(of: []))
    }

    @Test("it behaves as a set does, whatever is done with it")
    func likeASet() {
        var random = RandomSource(seed: 1)
        var sorted = SortedPeers()
        var model: Set<PeerID> = []
        for _ in 0..<5000 {
            let peer = PeerID(UInt64(random.below(40)))
            let isInsert = random.oneIn(2)
            let changed = isInsert ? sorted.insert(peer) : sorted.remove(peer)
            #expect(changed == (isInsert ? model.insert(peer).inserted : model.remove(peer) != nil))
            #expect(sorted.array == model.sorted())
        }
    }
}
