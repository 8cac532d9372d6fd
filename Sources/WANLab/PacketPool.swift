/// A packet in the pool, by number.
package typealias Slot = Int32

/// Memory for packets: taken once, handed out and taken back by number. Two sizes of slot, since nine packets in ten are
/// either acknowledgements or super-packets of up to 64 KiB. The large part is only reserved; the system backs a page
/// when it is first used, and the slot given back last is handed out first.
///
/// In a slot: some room, then the virtio header (`VirtioHeader.size` bytes), then the IP packet.
package final class PacketPool {
    package struct Sizes: Sendable {
        package var smallSlots: Int
        package var largeSlots: Int
        /// Whole IP packets up to that go into small slots.
        package var smallPacketBytes: Int

        package init(smallSlots: Int = 65536, largeSlots: Int = 8192, smallPacketBytes: Int = 1500) {
            self.smallSlots = smallSlots
            self.largeSlots = largeSlots
            self.smallPacketBytes = smallPacketBytes
        }
    }

    /// The largest IP packet there is, with its virtio header, rounded up to pages.
    package static let largeSlotBytes = 17 * 4096

    package let smallSlotBytes: Int
    private let largeSlots: Int
    private let largeMemory: UnsafeMutableRawPointer
    private let smallMemory: UnsafeMutableRawPointer
    private let descriptions: UnsafeMutablePointer<Packet>
    private let slotCount: Int
    private var freeLarge: [Slot]
    private var freeSmall: [Slot]

    package init(_ sizes: Sizes) {
        smallSlotBytes = (sizes.smallPacketBytes + VirtioHeader.size + 511) & ~511
        largeSlots = sizes.largeSlots
        slotCount = sizes.largeSlots + sizes.smallSlots
        largeMemory = .allocate(byteCount: sizes.largeSlots * Self.largeSlotBytes, alignment: 4096)
        smallMemory = .allocate(byteCount: sizes.smallSlots * smallSlotBytes, alignment: 4096)
        descriptions = .allocate(capacity: slotCount)
        descriptions.initialize(repeating: Packet(), count: slotCount)
        freeLarge = (0..<Slot(sizes.largeSlots)).reversed()
        freeSmall = (Slot(sizes.largeSlots)..<Slot(slotCount)).reversed()
    }

    deinit {
        largeMemory.deallocate()
        smallMemory.deallocate()
        descriptions.deallocate()
    }

    package var inUse: Int { slotCount - freeLarge.count - freeSmall.count }

    package func takeLarge() -> Slot? { freeLarge.popLast() }
    package func takeSmall() -> Slot? { freeSmall.popLast() }

    /// One that has room for an IP packet of that size.
    package func take(packetBytes: Int) -> Slot? {
        if packetBytes + VirtioHeader.size <= smallSlotBytes, let slot = freeSmall.popLast() { return slot }
        return freeLarge.popLast()
    }

    package func giveBack(_ slot: Slot) {
        if Int(slot) < largeSlots { freeLarge.append(slot) } else { freeSmall.append(slot) }
    }

    /// Where the slot's memory begins, and where a packet is read to.
    package func memory(_ slot: Slot) -> UnsafeMutableRawPointer {
        Int(slot) < largeSlots
            ? largeMemory + Int(slot) * Self.largeSlotBytes : smallMemory + (Int(slot) - largeSlots) * smallSlotBytes
    }

    package subscript(slot: Slot) -> Packet {
        get { descriptions[Int(slot)] }
        set { descriptions[Int(slot)] = newValue }
    }

    /// The packet with its virtio header, as a TUN device takes it.
    package func frame(_ slot: Slot) -> UnsafeMutableRawBufferPointer {
        let packet = self[slot]
        return UnsafeMutableRawBufferPointer(
            start: memory(slot) + packet.start - VirtioHeader.size, count: VirtioHeader.size + packet.byteCount)
    }

    /// The packet from its IP header on.
    package func bytes(_ slot: Slot) -> UnsafeMutableRawPointer { memory(slot) + self[slot].start }
}

/// What is known of a packet in a slot.
package struct Packet: Sendable {
    /// Where its IP header is in the slot.
    package var start = VirtioHeader.size
    package var byteCount = 0
    package var from: Int16 = 0
    package var to: Int16 = 0
    /// How far it has come on its path; see `Network`.
    package var stage: Int8 = 0
    /// The TCP connection it belongs to, in the flow table.
    package var flow: Int32?
    /// IP and TCP header together, for TCP; what each segment of a super-packet has of its own.
    package var headerBytes = 0
    /// The payload of each segment but the last.
    package var segmentBytes = 0
    package var segmentCount = 1

    /// What crosses the wire in the packet's stead: each segment has headers of its own.
    package var wireBytes: Int { byteCount + (segmentCount - 1) * headerBytes }

    package func wireBytes(ofSegment index: Int) -> Int {
        guard segmentCount > 1 else { return byteCount }
        return index < segmentCount - 1
            ? headerBytes + segmentBytes : byteCount - (segmentCount - 1) * segmentBytes
    }
}
