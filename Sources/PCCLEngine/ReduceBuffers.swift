import PCCLBase
import PCCLCompute

/// The caller's memory, lent to an operation until its outcome is known. In place when both are the same.
package struct ReduceBuffers: @unchecked Sendable {
    package let send: UnsafeRawPointer
    package let receive: UnsafeMutableRawPointer
    /// Where coding has losses that count.
    package let feedback: ErrorFeedback?
    /// If they are memory of a device, and not of the host.
    package let device: DeviceBuffers?

    package init(
        send: UnsafeRawPointer, receive: UnsafeMutableRawPointer, feedback: ErrorFeedback? = nil,
        device: DeviceBuffers? = nil
    ) {
        self.send = send
        self.receive = receive
        self.feedback = feedback
        self.device = device
    }
    var isInPlace: Bool { send == UnsafeRawPointer(receive) }

    /// What stands for them on the host; that knows of a device if it is copied in pieces.
    func onHost(_ descriptor: OperationDescriptor, pieceBytes: Int) throws(DeviceError) -> ReduceBuffers {
        guard let device else { return self }
        let staged = try device.useHost(.of(descriptor, pieceBytes: pieceBytes))
        return ReduceBuffers(
            send: staged.send, receive: staged.receive, feedback: feedback, device: staged.isInPieces ? device : nil)
    }
}

extension DeviceBuffers.Staging {
    /// With two pieces there is something to do at the same time.
    package static func of(_ descriptor: OperationDescriptor, pieceBytes: Int) -> DeviceBuffers.Staging {
        guard descriptor.byteCount >= 2 * UInt64(pieceBytes) else { return .whole }
        // The device keeps what a reduction in place was given until pieces of its result come there, and the host keeps it
        // for longer. Other collectives overwrite nothing that is still wanted.
        return .pieces(apart: descriptor.collective.isReduction)
    }
}

/// Payload bytes that an operation has moved.
package struct Traffic: Hashable, Sendable {
    package var sentBytes: UInt64 = 0
    package var receivedBytes: UInt64 = 0
    package init() {}
    package static func += (a: inout Traffic, b: Traffic) {
        a.sentBytes += b.sentBytes
        a.receivedBytes += b.receivedBytes
    }
}
