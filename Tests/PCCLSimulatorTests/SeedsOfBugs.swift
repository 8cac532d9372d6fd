/// Seeds that show a bug when its mending is taken back. They stand for something only as long as scenarios are drawn as
/// they are now; the transcripts in FoundBugsTests.swift explain the bugs for good.
enum SeedsOfBugs {
    static let all: [UInt64] = [
        // The word that a member is prepared overtook its entry on another stripe, and was forgotten.
        3, 34,
        // Right programs that ask while their operations run were refused because somebody was slow.
        21, 64,
        // A link broke under an operation and was made again, but the master was gone before it could order the repair.
        445, 2005,
        // The master died while it sent a view that all had agreed to.
        10436,
        // Two members that cannot reach each other at all: every repair put off the day on which one is chosen to go.
        10408, 14371,
        // Descriptors differed and a member was lost before all had found out: one began again, another was told of misuse.
        5_081_784,
        // A link broke between two members that had failed a call, and took the entry that one of them waited for.
        5_115_127,
        // A call that was made between `attach` and its answer was lost.
        443,
        // A vote that was given to the last master was not counted by the next one.
        539,
        // A view that a member had missed was told with the members of a later moment.
        1301,
        // Two masters in a row that knew nothing gave the same id twice.
        30,
        // Found while masters that are started anew were built.
        909, 6585,
        // A bug of the checker: a verdict was heard by one peer alone, which left, and the master forgot it.
        7_146_306_410_238_534_439,
        // A master that knew nothing took over a later view, and kept what a member of the earlier one had said of a link.
        5_159_065_906_346_410_674,
        // The checker again: those who were told of a loss left, the master forgot it, and one who had not heard committed.
        4_657_106_125_591_868_704,
        // A straggler deadline flushed again and again for a member that was asking, which is nobody's to be late.
        5_992_109_953_524_844_636,
        // Two masters in a row that knew nothing went on from the same view, with the same epoch and other members.
        8_466_745_401_753_220_723,
        // A bug of the simulated network: the end of a connection overtook the answer to its greeting.
        196_600, 8_667_291_807_616_120_302,
        // Another: its secrets were multiples of one number, so that two masters that knew nothing met after all.
        116_728_629_151_988_521,
        // A peer still in a call that had failed took the next call of another for its partner, and what it held was kept.
        227_711,
        // Time ended before a slow caller that was left alone had done its lonely rounds.
        7_041_034_539_089_536_506,
        // A bug of the simulated network: it let peers of two runs greet each other, if their numbers were right.
        3_002_186_631_453_078_783,
    ]
}
