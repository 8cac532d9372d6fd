/// At which of its inner steps a peer launches the synchronisation of which fragment, and at which it takes in the result.
///
/// Each fragment is synchronised every `syncEvery` steps, fragment f of F at f/F of the way from one boundary to the next.
/// All peers launch fragments in the same order, whatever the steps between two launches are.
struct RoundSchedule: Hashable, Sendable {
    let syncEvery: Int
    let fragmentCount: Int
    /// Steps from a launch to its result, from 0 to `syncEvery`.
    let overlap: Int

    /// The fragments that are launched at the end of this step, which is 1 or more.
    func launches(atStep step: Int) -> [Int] {
        (0..<fragmentCount).filter { step % syncEvery == offset($0) }
    }

    /// Steps from a boundary to a fragment's launch.
    func offset(_ fragment: Int) -> Int { fragment * syncEvery / fragmentCount }

    /// Members meet newcomers where the first fragment is launched.
    func isBoundary(_ step: Int) -> Bool { step % syncEvery == 0 }
}
