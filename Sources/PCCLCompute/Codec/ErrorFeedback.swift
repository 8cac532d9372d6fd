import CKernels
import Glibc
import PCCLBase

/// What coding has lost of the contributions with one tag so far, so that it can be added to the next ones: error feedback
/// (Seide and others, 1-bit stochastic gradient descent, 2014; Karimireddy and others, 2019).
///
/// For each element the sum, in the unit of a contribution, that this member should have passed on and has not: as a
/// contributor, as one who passes a sum on, or as the maker of a result. An operation reads what is kept and writes what
/// will be; `commit` takes that over, so that one that fails leaves everything as it was.
///
/// Lent to one operation at a time, which may live on another thread.
package final class ErrorFeedback: @unchecked Sendable {
    package let count: Int
    package let type: DataType
    /// By element, float32 or float64 as sums are.
    package private(set) var kept: UnsafeMutableRawPointer
    package private(set) var next: UnsafeMutableRawPointer

    /// All zero; nil when there is no memory. For a type that can be coded.
    package init?(count: Int, type: DataType) {
        let bytes = type == .float64 ? 8 : 4
        // Pages that nobody touches cost nothing.
        guard let kept = calloc(max(count, 1), bytes) else { return nil }
        guard let next = calloc(max(count, 1), bytes) else {
            free(kept)
            return nil
        }
        self.count = count
        self.type = type
        self.kept = kept
        self.next = next
    }

    deinit {
        free(kept)
        free(next)
    }

    /// The operation has succeeded.
    package func commit() { (kept, next) = (next, kept) }
}

extension Coder {
    /// What was lost of the elements at hand, and where what is lost of them now is to go.
    package struct Losses {
        var kept: UnsafeRawPointer
        var next: UnsafeMutableRawPointer

        package init(_ feedback: ErrorFeedback, element: Int) {
            let offset = element * (feedback.type == .float64 ? 8 : 4)
            kept = UnsafeRawPointer(feedback.kept) + offset
            next = feedback.next + offset
        }

        /// Nothing is lost of what they stand for.
        package func settle(_ byteCount: Int) { _ = memset(next, 0, byteCount) }

        func at(_ byteOffset: Int) -> Losses {
            var moved = self
            moved.kept += byteOffset
            moved.next += byteOffset
            return moved
        }
    }
}
