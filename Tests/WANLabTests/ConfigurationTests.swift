import Testing
@testable import WANLab
