import PCCLBase
import PCCLMembership
import PCCLTransport

/// Who leads, of the masters that share a store.
package enum MasterLead: Sendable {
    /// This one, from now on, and from this state; terms only grow. Nil: the store is this master's alone.
    case leads(term: Int64?, MasterState?)
    /// Another one, whose name this is, or nobody yet.
    case follows(leader: String?)
}

/// Where a master keeps what it must not forget; and if others share it, what says which of them leads. All but `end` is
/// called on the master's loop.
package protocol MasterStore: AnyObject {
    /// Another master takes over if this one does not lead.
    var isShared: Bool { get }
    var figures: MasterJournal.Figures { get }
    /// This master leads for certain: whatever is sent now cannot contradict what another one says.
    var mayAct: Bool { get }
    /// `onChange` is called now or later, and may be called again and again.
    func begin(on loop: EventLoop, at address: SocketAddress, _ onChange: @escaping (MasterLead) -> Void)
    /// `onKept`: it is safe. Never called once the lead is lost, and before that no other state is given.
    func append(_ state: MasterState, then onKept: @escaping () -> Void)
    /// To whoever can serve better, for at least that long.
    func giveUp(_ reason: String, holdOff: Interval)
    func end()
}

extension MasterJournal: MasterStore {
    package var isShared: Bool { false }
    package var mayAct: Bool { true }
    package func begin(on loop: EventLoop, at _: SocketAddress, _ onChange: @escaping (MasterLead) -> Void) {
        onChange(.leads(term: nil, restored))
    }
    package func append(_ state: MasterState, then onKept: @escaping () -> Void) {
        append(state)
        onKept()
    }
    package func giveUp(_ reason: String, holdOff: Interval) {}
    package func end() {}
}
