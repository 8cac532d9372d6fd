/// Which ranks are near each other: members of one site, between whom bytes cost little, beside what they cost between
/// sites.
package struct Sites: Hashable, Sendable {
    /// By site, ascending.
    package let ranks: [[Int]]
    /// By rank.
    package let ofRank: [Int]
    /// By rank: which of its site's ranks it is.
    package let placeOfRank: [Int]

    /// `numbers`, by rank: ranks with the same number are of one site. If they are not those of a world of this size, every
    /// rank is a site of its own.
    package init(_ numbers: [UInt16], worldSize: Int) {
        let numbers = numbers.count == worldSize ? numbers.map(Int.init) : Array(0..<worldSize)
        var ranks: [[Int]] = []
        var ofRank: [Int] = []
        var placeOfRank: [Int] = []
        var siteOfNumber: [Int: Int] = [:]
        for (rank, number) in numbers.enumerated() {
            let site = siteOfNumber[number] ?? ranks.count
            if site == ranks.count {
                siteOfNumber[number] = site
                ranks.append([])
            }
            ofRank.append(site)
            placeOfRank.append(ranks[site].count)
            ranks[site].append(rank)
        }
        self.ranks = ranks
        self.ofRank = ofRank
        self.placeOfRank = placeOfRank
    }

    /// Through which rank of a site the chunk goes that `owner`, of any site, makes whole: the owner itself in its own.
    package func gateway(of site: Int, owner: Int) -> Int {
        ranks[site][placeOfRank[owner] % ranks[site].count]
    }

    /// How large each rank's chunk is to be so that every site has an equal part.
    ///
    /// A way out of a site carries its sums for the chunks of others, and the results of its own chunks to all others: for
    /// k sites and its part w of the buffer 1 - w + (k-1) w. All are equal, and the largest is least, where w = 1/k.
    package var weights: [UInt16] { ofRank.map { UInt16(clamping: max(Sites.weight / ranks[$0].count, 1)) } }
    /// A multiple of the sizes that sites usually have.
    private static let weight = 5040 * 8
}
