import Glibc
import PCCLBase
import PCCLTestSupport
import PCCLTransport
import Testing

@testable import PCCL

/// A master, and peers that train something which is no model: each step moves each parameter a little, another way at each
/// peer.
private final class Trainers: Sendable {
    let master: Master
    let count: Int

    init(_ count: Int) throws {
        self.count = count
        master = Master(listen: SocketAddress.loopback(port: 0), timeouts: .standard)
        try master.run()
    }

    func destroy() { master.destroy() }

    private let training = Guarded(false)
    func noteTraining() { training.withLock { $0 = true } }
    var isTraining: Bool { training.withLock { $0 } }

    func communicator() throws -> Communicator {
        try Communicator(Communicator.Configuration(master: SocketAddress.loopback(port: master.port)))
    }

    /// Runs the body for so many peers at once, each with a model of its own.
    func run(
        _ configuration: DiLoCo.Configuration,
        _ body: @escaping @Sendable (Int, Model, DiLoCo, Communicator) throws -> Void
    ) throws {
        try onThreads(Array(0..<count)) { [self] index, _ in
            let communicator = try communicator()
            defer { communicator.destroy() }
            let model = Model(index)
            let diloco = try DiLoCo(communicator, model.tensors, configuration)
            try body(index, model, diloco, communicator)
        }
    }
}

private final class Model {
    static let sizes = [7, 1000, 30]
    let buffers: [UnsafeMutableBufferPointer<Float>]
    let index: Int
    private var steps = 0

    /// Peers begin with different parameters.
    init(_ index: Int) {
        self.index = index
        buffers = Model.sizes.map { size in
            let buffer = UnsafeMutableBufferPointer<Float>.allocate(capacity: size)
            for i in 0..<size { buffer[i] = Float(i % 13) - 6 + Float(index) / 8 }
            return buffer
        }
    }

    deinit { for buffer in buffers { buffer.deallocate() } }

    var tensors: [DiLoCo.Tensor] { buffers.enumerated().map { DiLoCo.Tensor("layer\($0)", $1) } }
    var values: [[Float]] { buffers.map(Array.init) }

    static func change(_ index: Int, _ step: Int, _ i: Int) -> Float {
        Float((i * 7 + step * 3 + index * 5) % 11 - 5) / 64
    }

    func trainOneStep() {
        steps += 1
        for buffer in buffers { for i in buffer.indices { buffer[i] += Model.change(index, steps, i) } }
    }
}

/// The same in plain arithmetic, for all peers at once.
private struct Reference {
    var outer: [[Float]]
    var momentum: [[Float]]
    var locals: [[[Float]]]
    let weights: [Float]

    init(_ start: [[Float]], peers: Int, weights: [Float]) {
        outer = start
        momentum = start.map { $0.map { _ in 0 } }
        locals = Array(repeating: start, count: peers)
        self.weights = weights
    }

    mutating func train(_ indexOfRank: [Int], _ step: Int) {
        for rank in locals.indices {
            for t in outer.indices {
                for i in outer[t].indices { locals[rank][t][i] += Model.change(indexOfRank[rank], step, i) }
            }
        }
    }

    /// By element of the tensor: the average, by the members in the order of ranks.
    func gradient(_ t: Int) -> [Float] {
        let peers = Float(locals.count)
        let weight = weights.dropFirst().reduce(weights[0], +) / peers
        return outer[t].indices.map { i in
            var sum = weights[0] * (outer[t][i] - locals[0][t][i])
            for rank in locals.indices.dropFirst() { sum += weights[rank] * (outer[t][i] - locals[rank][t][i]) }
            return weight == 1 ? sum / peers : sum / peers / weight
        }
    }

    mutating func step(_ t: Int, _ gradient: [Float], mixing: Float) {
        for i in outer[t].indices {
            let decayed = 0.9 * momentum[t][i]
            momentum[t][i] = decayed + gradient[i]
            let ahead = 0.9 * momentum[t][i]
            let length = 0.7 * (gradient[i] + ahead)
            outer[t][i] -= length
            for rank in locals.indices {
                let (kept, taken) = (mixing * locals[rank][t][i], (1 - mixing) * outer[t][i])
                locals[rank][t][i] = mixing == 0 ? outer[t][i] : kept + taken
            }
        }
    }
}

@Suite("DiLoCo", .timeLimit(.minutes(5)))
struct DiLoCoTests {
    @Test("each fragment is launched once a round, in the same order at all, evenly apart")
    func schedule() {
        let schedule = RoundSchedule(syncEvery: 10, fragmentCount: 3, overlap: 4)
        let launches = (1...20).map { schedule.launches(atStep: $0) }
        #expect(
            launches.enumerated().filter { !$1.isEmpty }.map { [$0 + 1] + $1 } == [
                [3, 1], [6, 2], [10, 0], [13, 1], [16, 2], [20, 0],
            ])
        #expect((1...20).filter(schedule.isBoundary) == [10, 20])
    }

    @Test("tensors are dealt out to fragments next to each other, and none stays empty", arguments: 1...5)
    func dealing(fragmentCount: Int) throws {
        let buffer = UnsafeMutableBufferPointer<Float>.allocate(capacity: 1000)
        defer { buffer.deallocate() }
        for sizes in [[1, 1, 1, 1, 1], [1000, 1, 1, 1, 1], [1, 1, 1, 1, 1000], [5, 100, 5, 100, 5, 5, 5, 5, 5]] {
            let tensors = sizes.enumerated().map { index, size in
                DiLoCo.Tensor("\(index)", UnsafeMutableBufferPointer(rebasing: buffer[..<size]))
            }
            let fragments = try Fragment.deal(tensors, into: fragmentCount)
            #expect(fragments.allSatisfy { !$0.isEmpty })
            #expect(fragments.flatMap { $0.map(\.name) } == tensors.map(\.name))
        }
    }

    private static let modes: [DiLoCo.Mode] = [
        .synchronous, .delayed(), .streaming(fragments: 3, overlap: 2, mixing: 0.5),
        .streaming(fragments: 2, overlap: 0, mixing: 0),
    ]

    @Test("each mode does what plain arithmetic does, to the bit, at all peers", arguments: modes, [false, true])
    func arithmetic(mode: DiLoCo.Mode, hasWeights: Bool) throws {
        let trainers = try Trainers(3)
        defer { trainers.destroy() }
        var configuration = DiLoCo.Configuration(mode, syncEvery: 5)
        configuration.minimumPeers = 3
        let ranks = Mailbox<[Int]>("rank and index")
        let ends = Mailbox<([[Float]], [[Float]], String)>("parameters")
        let starts = Mailbox<[[Float]]>("what all begin with")
        let steps = 15
        let weights: [Float] = hasWeights ? [1, 0.5, 2] : [1, 1, 1]
        let configured = configuration
        try trainers.run(configured) { index, model, diloco, communicator in
            try diloco.begin()
            ranks.put([try communicator.attributes().rank, index])
            starts.put(model.values)
            for _ in 0..<steps {
                model.trainOneStep()
                try diloco.step(weight: weights[index])
            }
            let local = model.values
            try diloco.end()
            ends.put((local, model.values, try diloco.parametersHash))
        }
        let indexOfRank = ranks.all.sorted { $0[0] < $1[0] }.map { $0[1] }
        #expect(starts.all.allSatisfy { $0 == starts.all[0] })
        let reference = run(
            Reference(starts.all[0], peers: 3, weights: indexOfRank.map { weights[$0] }), configured, indexOfRank, steps
        )
        let results = ends.all
        #expect(Set(results.map(\.2)).count == 1)
        #expect(results.allSatisfy { $0.1 == reference.outer })
        // Something was learnt.
        #expect(reference.outer != starts.all[0])
    }

    /// As a peer goes through its steps.
    private func run(
        _ start: Reference, _ configuration: DiLoCo.Configuration, _ indexOfRank: [Int], _ steps: Int
    ) -> Reference {
        var reference = start
        let schedule = RoundSchedule(
            syncEvery: configuration.syncEvery, fragmentCount: configuration.fragmentCount,
            overlap: configuration.overlap)
        // As the library deals three tensors out.
        let tensorsOf = [[[0, 1, 2]], [[0, 1], [2]], [[0], [1], [2]]][configuration.fragmentCount - 1]
        var flying: [(due: Int, gradients: [(Int, [Float])])] = []
        func take(_ gradients: [(Int, [Float])]) {
            for (t, gradient) in gradients { reference.step(t, gradient, mixing: configuration.mixing) }
        }
        for step in 1...steps {
            reference.train(indexOfRank, step)
            // Measured from what the round began with, which is replaced next.
            let found = schedule.launches(atStep: step).map { tensorsOf[$0].map { ($0, reference.gradient($0)) } }
            for flight in flying where flight.due <= step { take(flight.gradients) }
            flying.removeAll { $0.due <= step }
            if schedule.isBoundary(step), configuration.overlap > 0 {
                // Members compare what they hold, and nothing is on its way then.
                for flight in flying { take(flight.gradients) }
                flying = []
            }
            if configuration.overlap == 0 {
                for gradients in found { take(gradients) }
            } else {
                flying += found.map { (step + configuration.overlap, $0) }
            }
        }
        for flight in flying { take(flight.gradients) }
        return reference
    }

    @Test(
        "a newcomer begins with what the others hold, and a peer that leaves is missing from then on", arguments: modes)
    func comingAndGoing(mode: DiLoCo.Mode) throws {
        let trainers = try Trainers(2)
        defer { trainers.destroy() }
        let configuration = DiLoCo.Configuration(mode, syncEvery: 4)
        let hashes = Mailbox<String>("hashes at the end")
        let newcomer = try trainers.communicator()
        let third = InThread {
            let model = Model(2)
            let diloco = try DiLoCo(newcomer, model.tensors, configuration)
            try diloco.begin()
            var worldSize = 3
            while worldSize != 2 || diloco.round < 12 {
                model.trainOneStep()
                for info in try diloco.step() { worldSize = info.worldSize }
            }
            try diloco.end()
            return try diloco.parametersHash
        }
        try trainers.run(configuration) { index, model, diloco, communicator in
            try diloco.begin()
            var worldSize = 0
            while worldSize != 3 {
                model.trainOneStep()
                for info in try diloco.step() { worldSize = info.worldSize }
            }
            if index == 0 {
                // In the middle of a round.
                model.trainOneStep()
                return communicator.destroy()
            }
            while worldSize != 2 || diloco.round < 12 {
                model.trainOneStep()
                for info in try diloco.step() { worldSize = info.worldSize }
            }
            try diloco.end()
            hashes.put(try diloco.parametersHash)
        }
        #expect(try third.result() == hashes.take())
        newcomer.destroy()
    }

    @Test("who is alone waits for others, or goes on by itself where that was asked for")
    func alone() throws {
        let trainers = try Trainers(1)
        defer { trainers.destroy() }
        var configuration = DiLoCo.Configuration(syncEvery: 2)
        configuration.patienceSeconds = 0.05
        try trainers.run(configuration) { _, _, diloco, _ in
            let error = #expect(throws: PCCLError.self) { try diloco.begin() }
            #expect(error?.code == .tooFewPeers)
        }
        configuration.minimumPeers = 1
        configuration.optimizer = .average
        try trainers.run(configuration) { _, model, diloco, _ in
            try diloco.begin()
            for _ in 0..<4 {
                model.trainOneStep()
                let before = model.values
                let infos = try diloco.step()
                #expect(infos.allSatisfy { $0.worldSize == 1 })
                // The average of one is what it has.
                for (a, b) in zip(before.flatMap { $0 }, model.values.flatMap { $0 }) { #expect(abs(a - b) < 1e-5) }
            }
            #expect(diloco.round == 2)
        }
    }

    @Test("a newcomer with another configuration is sent away with what differs, and the others go on")
    func otherConfiguration() throws {
        let trainers = try Trainers(2)
        defer { trainers.destroy() }
        var configuration = DiLoCo.Configuration(syncEvery: 2)
        let right = configuration
        configuration.codec = Codec(.int4)
        let wrong = configuration
        let isRefused = Mailbox<String>("why the third was refused")
        let third = InThread {
            let communicator = try trainers.communicator()
            defer { communicator.destroy() }
            let model = Model(2)
            // So that it is not among the first two, whose configuration is everybody's.
            while !trainers.isTraining { usleep(1000) }
            let diloco = try DiLoCo(communicator, model.tensors, wrong)
            let error = #expect(throws: PCCLError.self) { try diloco.begin() }
            #expect(error?.code == .invalidArgument)
            isRefused.put(error?.reason ?? "")
        }
        try trainers.run(right) { _, model, diloco, _ in
            try diloco.begin()
            var roundsSince = 0
            while roundsSince < 3 {
                model.trainOneStep()
                let infos = try diloco.step()
                trainers.noteTraining()
                if !isRefused.all.isEmpty { roundsSince += infos.filter { $0.worldSize == 2 }.count }
            }
            try diloco.end()
        }
        try third.result()
        let reason = try isRefused.take()
        #expect(reason.contains("codec int4") || reason.contains("codec none"), "\(reason)")
    }

    @Test("an object that is let go in the middle of everything harms nobody")
    func letGoAnywhere() throws {
        let trainers = try Trainers(2)
        defer { trainers.destroy() }
        try trainers.run(.init(.streaming(fragments: 3, overlap: 2), syncEvery: 3)) { index, model, _, communicator in
            var diloco: DiLoCo? = try DiLoCo(
                communicator, model.tensors, .init(.streaming(fragments: 3, overlap: 2), syncEvery: 3))
            try diloco?.begin()
            for _ in 0..<4 + index {
                model.trainOneStep()
                try diloco?.step()
            }
            diloco = nil
        }
    }

    @Test("who lets go of it without an end lends what is on its way until that has arrived")
    func letGo() throws {
        let trainers = try Trainers(2)
        defer { trainers.destroy() }
        var configuration = DiLoCo.Configuration(.streaming(fragments: 2, overlap: 1), syncEvery: 2)
        configuration.optimizer = .average
        // So large that memory which is freed is gone.
        let count = 1 << 20
        let released = Mailbox<Bool>("the first one has let go")
        let received = Mailbox<Bool>("the second one has what it was sent")
        try trainers.run(configuration) { [configuration] index, _, _, communicator in
            let weights = UnsafeMutableBufferPointer<Float>.allocate(capacity: 2 * count)
            defer { weights.deallocate() }
            weights.initialize(repeating: 1)
            let halves = [weights[..<count], weights[count...]].map { UnsafeMutableBufferPointer(rebasing: $0) }
            let tensors = zip(["first", "second"], halves).map { DiLoCo.Tensor($0, $1) }
            let diloco = try DiLoCo(communicator, tensors, configuration)
            try diloco.begin()
            weights.update(repeating: 1 + Float(1 + index))
            if index == 0 {
                // Launches the second fragment, without waiting for anybody.
                try diloco.step()
            } else {
                _ = try released.take()
                try diloco.step()
                try diloco.end()
                #expect(halves[1].allSatisfy { $0 == 2.5 })
                received.put(true)
                return
            }
            _ = consume diloco
            released.put(true)
            _ = try received.take()
        }
    }

    @Test("configurations that cannot be are refused, and say why")
    func refusals() throws {
        let trainers = try Trainers(1)
        defer { trainers.destroy() }
        let model = Model(0)
        let communicator = try trainers.communicator()
        defer { communicator.destroy() }
        func refused(_ change: (inout DiLoCo.Configuration) -> Void) -> String? {
            var configuration = DiLoCo.Configuration(syncEvery: 4)
            change(&configuration)
            return #expect(throws: PCCLError.self) { _ = try DiLoCo(communicator, model.tensors, configuration) }?
                .reason
        }
        #expect(refused { $0.syncEvery = 0 }?.contains("0 steps") == true)
        #expect(
            refused { $0.mode = .streaming(fragments: 4, overlap: 1) }?.contains("4 fragments of 3 tensors") == true)
        #expect(refused { $0.mode = .streaming(fragments: 2, overlap: 5) }?.contains("5 steps") == true)
        #expect(refused { $0.mode = .streaming(fragments: 2, overlap: 1, mixing: 1) }?.contains("mixing") == true)
        #expect(refused { $0.mode = .delayed(stalenessPenalty: -1) }?.contains("penalty") == true)
        #expect(refused { $0.codec = Codec(.minMax32) }?.contains("float32") == true)
        #expect(refused { $0.optimizer.learningRate = .nan }?.contains("nan") == true)
        #expect(refused { $0.minimumPeers = 0 }?.contains("0 peers") == true)
        #expect(throws: PCCLError.self) { _ = try DiLoCo(communicator, [], .init(syncEvery: 1)) }
    }
}
