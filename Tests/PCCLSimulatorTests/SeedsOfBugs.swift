/// Seeds that show a bug when its mending is taken back. They stand for something only as long as scenarios are drawn as
/// they are now; the transcripts in FoundBugsTests.swift explain the bugs for good.
enum SeedsOfBugs {
    static let all: [UInt64] = []
}
