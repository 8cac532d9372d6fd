/// What a member is ready to do when a shared state is synchronised, with the values of the C API.
public enum SharedStateStrategy: UInt8, Sendable, CaseIterable {
    /// Give or take: whatever most members hold becomes everybody's. All members must say the same.
    case enforcePopular = 0
    /// Take what others have; this member's own content is not in the election.
    case receiveOnly = 1
    /// Give: this member's content is in the election, and must be what is elected.
    case sendOnly = 2
}
