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

    /// What stands for them on the host. Blocks, if they are a device's, until the input is there.
    func onHost() throws(DeviceError) -> ReduceBuffers {
        guard let device else { return self }
        let staged = try device.useHost()
        return ReduceBuffers(send: staged.send, receive: staged.receive, feedback: feedback)
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
