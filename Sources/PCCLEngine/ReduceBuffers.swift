import PCCLBase
import PCCLCompute

/// The caller's memory, lent to an operation until its outcome is known. In place when both are the same.
package struct ReduceBuffers: @unchecked Sendable {
    package let send: UnsafeRawPointer
    package let receive: UnsafeMutableRawPointer
    /// Where coding has losses that count.
    package let feedback: ErrorFeedback?
    /// If they are memory of a device, or stand for it in pieces.
    package let device: DeviceBuffers?
    /// If the device codes what they hold: then they are its memory, and the host does not touch them.
    let coding: DeviceCoding?

    package init(
        send: UnsafeRawPointer, receive: UnsafeMutableRawPointer, feedback: ErrorFeedback? = nil,
        device: DeviceBuffers? = nil
    ) {
        self.init(send: send, receive: receive, feedback: feedback, device: device, coding: nil)
    }

    private init(
        send: UnsafeRawPointer, receive: UnsafeMutableRawPointer, feedback: ErrorFeedback?, device: DeviceBuffers?,
        coding: DeviceCoding?
    ) {
        self.send = send
        self.receive = receive
        self.feedback = feedback
        self.device = device
        self.coding = coding
    }
    /// Other addresses, by so many bytes.
    func moved(send sendBytes: Int = 0, receive receiveBytes: Int = 0) -> ReduceBuffers {
        ReduceBuffers(
            send: send + sendBytes, receive: receive + receiveBytes, feedback: feedback, device: device, coding: coding)
    }

    var isInPlace: Bool { send == UnsafeRawPointer(receive) }

    /// What the device works on by itself. Nil if it cannot code this, or the members do not share the result's codes.
    func onDevice(_ descriptor: OperationDescriptor) -> ReduceBuffers? {
        guard descriptor.codec != .none, descriptor.algorithm != .oneShot, let coding = device?.useCoding(),
            let send = UnsafeRawPointer(bitPattern: coding.send),
            let receive = UnsafeMutableRawPointer(bitPattern: coding.receive)
        else { return nil }
        return ReduceBuffers(send: send, receive: receive, feedback: nil, device: nil, coding: coding)
    }

    /// Does what has to be done before the operation begins on the host, or, if it may be, for its codes on the device.
    package func stage(
        _ descriptor: OperationDescriptor, isCodedOnDevice: Bool, _ sizes: EngineConfiguration
    ) throws(DeviceError) {
        guard let device else { return }
        // Small ones are faster on the host.
        if isCodedOnDevice, descriptor.codec != .none, descriptor.collective.isReduction,
            descriptor.byteCount >= 2 * UInt64(sizes.devicePieceBytes),
            device.prepareCoding(
                descriptor,
                segmentElements: sizes.elementsPerCodedSegment(
                    descriptor.codec.layout(of: descriptor.type), ofChunk: Int(descriptor.count)))
        {
            return
        }
        try device.stage(.of(descriptor, pieceBytes: sizes.devicePieceBytes))
    }

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
