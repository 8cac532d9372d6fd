/// How far an operation in flight has come with each other member, as the engine and the links see it. For whoever asks what
/// it waits for; nothing is decided by it.
package struct OperationProgress: Hashable, Sendable {
    package struct Member: Hashable, Sendable {
        package var peer: PeerID
        /// Of what it has to send here in this operation, as it travels.
        package var receivedBytes: UInt64
        package var expectedBytes: UInt64
        /// Something is missing that waits for nobody but that member.
        package var owesInput: Bool
        /// What is not sent to it yet.
        package var unsentBytes: UInt64
        /// Since when nothing at all came from it. Nil: there is no link.
        package var silence: Interval?

        package init(
            peer: PeerID, receivedBytes: UInt64 = 0, expectedBytes: UInt64 = 0, owesInput: Bool = false,
            unsentBytes: UInt64 = 0, silence: Interval?
        ) {
            self.peer = peer
            self.receivedBytes = receivedBytes
            self.expectedBytes = expectedBytes
            self.owesInput = owesInput
            self.unsentBytes = unsentBytes
            self.silence = silence
        }
    }

    /// All other members, in rank order.
    package var members: [Member]
    package init(members: [Member]) { self.members = members }
}
