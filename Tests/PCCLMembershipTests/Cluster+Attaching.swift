import PCCLBase
import PCCLWire

@testable import PCCLMembership

/// Far longer than any of these tests lets pass, unless it is about the end of it.
let longGrace = Interval.seconds(60)

extension Cluster {
    /// Time for every peer that looks for its master to try again, and less than the dead time.
    mutating func seek() { pass(timeouts.longestRedial * 2) }

    /// What the master sent to this peer, without heartbeats.
    func told(_ name: Name) -> [ToPeer] {
        sentByMaster.filter { $0.to == name && $0.message != .heartbeat }.map(\.message)
    }

    func views(toldTo name: Name) -> [[PeerID]] {
        told(name).compactMap { if case .view(_, let members, _, _) = $0 { members.map(\.id) } else { nil } }
    }
    func flushes(toldTo name: Name) -> [Epoch] {
        told(name).compactMap { if case .flush(let epoch) = $0 { epoch } else { nil } }
    }
    func proposals(toldTo name: Name) -> [Epoch] {
        told(name).compactMap { if case .propose(let epoch, _) = $0 { epoch } else { nil } }
    }

    var isRecovering: Bool {
        if case .recovering? = master.groups.first?.phase { true } else { false }
    }

    /// As this member would attach again: with its own view, unless another is given.
    func attachment(of name: Name) -> PCCLWire.Attachment? {
        guard let peer = master.peers.first(where: { $0.id == id(name) }), let secret = peer.secret,
            let view = nodes[name]?.machine.view
        else { return nil }
        let members = view.members.map { Member(id: $0, addresses: [], stripes: 1) }
        return PCCLWire.Attachment(
            run: master.run, peer: peer.id, secret: secret,
            hello: Hello(group: peer.group, listenPort: 48150, addresses: [], stripes: 1),
            view: HeldView(
                epoch: view.epoch, highestEpoch: view.epoch, members: members, arrangement: view.arrangement))
    }
}
