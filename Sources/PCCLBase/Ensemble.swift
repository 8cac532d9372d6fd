/// Peers of several groups that are members all together or not at all: the processes of one node, where each node holds
/// a sharded copy of a model and the same shards of all nodes are a group.
///
/// They are admitted at a join point common to their groups, once all of them wait, and if one is lost, all are. Whoever
/// leaves leaves alone.
public struct Ensemble: Hashable, Sendable, CustomStringConvertible {
    /// The same at all its members, and of no ensemble before: a node that is started again has another.
    public let id: UInt64
    /// How many members it has.
    public let size: Int

    /// `size` from 1 to `largestSize`.
    public init(id: UInt64, size: Int) {
        self.id = id
        self.size = size
    }

    public static let largestSize = 1024
    public var description: String { "ensemble \(id)" }
}
