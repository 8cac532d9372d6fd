/// The linear programme: maximise x₁ + … + xₙ where A x ≤ b and x ≥ 0, for A and b without negative entries.
///
/// Solved by the simplex method on the full tableau, with Bland's rule once a pivot gains nothing, so that it ends. All
/// zeros is where it begins, so there is no first phase. Meant for a few dozen variables and a few hundred rows.
struct PackingProgramme {
    private let variableCount: Int
    private var rows: [[Double]] = []
    private var bounds: [Double] = []

    /// What is smaller than this beside numbers around 1 is zero.
    private static let zero = 1e-11

    init(variableCount: Int) { self.variableCount = variableCount }

    mutating func add(_ row: [Double], atMost bound: Double) {
        rows.append(row)
        bounds.append(max(bound, 0))
    }

    /// Nil when nothing bounds the sum.
    func solve() -> [Double]? {
        let n = variableCount
        var rows = rows
        var bounds = bounds
        // By column, what a unit of its variable adds to the sum. The slack variable of row i is number n + i.
        var gains = Array(repeating: 1.0, count: n)
        var columnVariable = Array(0..<n)
        var rowVariable = Array(n..<n + rows.count)
        var isStuck = false
        while true {
            var column: Int?
            for j in 0..<n where gains[j] > PackingProgramme.zero {
                guard let best = column else {
                    column = j
                    continue
                }
                let isBefore = isStuck ? columnVariable[j] < columnVariable[best] : gains[j] > gains[best]
                if isBefore { column = j }
            }
            guard let column else { break }
            var row: Int?
            var step = Double.infinity
            for i in rows.indices where rows[i][column] > PackingProgramme.zero {
                let ratio = bounds[i] / rows[i][column]
                guard let best = row else {
                    (row, step) = (i, ratio)
                    continue
                }
                if ratio < step || (ratio == step && rowVariable[i] < rowVariable[best]) { (row, step) = (i, ratio) }
            }
            guard let row else { return nil }
            isStuck = step <= PackingProgramme.zero
            // Exchanges the two variables; the column afterwards belongs to the one that has left.
            let pivot = rows[row][column]
            for j in 0..<n where j != column { rows[row][j] /= pivot }
            rows[row][column] = 1 / pivot
            bounds[row] /= pivot
            for i in rows.indices where i != row {
                let factor = rows[i][column]
                guard factor != 0 else { continue }
                for j in 0..<n where j != column { rows[i][j] -= factor * rows[row][j] }
                rows[i][column] = -factor / pivot
                bounds[i] = max(bounds[i] - factor * bounds[row], 0)
            }
            let factor = gains[column]
            for j in 0..<n where j != column { gains[j] -= factor * rows[row][j] }
            gains[column] = -factor / pivot
            (columnVariable[column], rowVariable[row]) = (rowVariable[row], columnVariable[column])
        }
        var solution = Array(repeating: 0.0, count: n)
        for i in rows.indices where rowVariable[i] < n { solution[rowVariable[i]] = bounds[i] }
        return solution
    }
}
