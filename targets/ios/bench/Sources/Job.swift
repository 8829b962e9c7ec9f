// One run as the protocol describes it (docs/devices.md): arguments, events, and results clip by clip.

import CryptoKit
import Foundation

let protocolVersion = 1

/// What ends a run, told to the host. `kind` is one of the protocol's.
struct RunError: Error {
    let kind: String
    let message: String
}

/// Where the host's files go: the names in the arguments are relative to it.
let documents = FileManager.default.urls(for: .documentDirectory, in: .userDomainMask)[0]

struct Job {
    var model = "", out = "", run = ""
    var shape: [Int] = []
    var classes = 0, threads = 0, warmup = 5, runs = 50, minRuns = 10
    var budgetS = 3.0, sustainedS = 0.0
    var resume = false
    var clips: [(name: String, count: Int)] = []

    var clipBytes: Int { shape.reduce(1, *) }
    var total: Int { clips.reduce(0) { $0 + $1.count } }

    init(_ words: [String]) throws {
        var spoken: Int?
        var unknown: String?
        var at = 0
        while at < words.count {
            let word = words[at]
            if word == "--resume" || word == "--watch-stdin" {
                // There is no standard input on a device: devicectl hands on the signal that ends it.
                resume = resume || word == "--resume"
                at += 1
                continue
            }
            guard at + 1 < words.count else { unknown = unknown ?? word; break }
            let text = words[at + 1]
            switch word {
            case "--protocol": spoken = Int(text)
            case "--model": model = text
            case "--out": out = text
            case "--run": run = text
            case "--classes": classes = try whole(text)
            case "--threads": threads = try whole(text)
            case "--warmup": warmup = try whole(text)
            case "--runs": runs = try whole(text)
            case "--min-runs": minRuns = try whole(text)
            case "--budget-s": budgetS = try number(text)
            case "--sustained-s": sustainedS = try number(text)
            case "--shape": shape = try text.split(separator: ",").map { try whole(String($0)) }
            case "--clips":
                guard let sign = text.lastIndex(of: "=") else {
                    throw RunError(kind: "usage", message: "--clips takes FILE=COUNT")
                }
                clips.append((String(text[..<sign]), try whole(String(text[text.index(after: sign)...]))))
            default: unknown = unknown ?? word
            }
            at += 2
        }
        guard spoken == protocolVersion else {  // first: another protocol may have other words
            let other = spoken.map(String.init) ?? "an unnamed one"
            throw RunError(kind: "protocol", message: "this runner speaks protocol \(protocolVersion), not \(other)")
        }
        if let unknown { throw RunError(kind: "usage", message: "unknown argument \(unknown)") }
        if model.isEmpty || out.isEmpty || shape.count != 4 || total == 0 {
            throw RunError(kind: "usage", message: "--model, --out, --shape T,H,W,C and --clips are needed")
        }
    }
}

private func number(_ text: String) throws -> Double {
    guard let value = Double(text), value >= 0 else { throw RunError(kind: "usage", message: "not a number: \(text)") }
    return value
}

private func whole(_ text: String) throws -> Int { Int(try number(text)) }

/// One line to standard output, at once.
func write(_ line: String) {
    FileHandle.standardOutput.write(Data((line + "\n").utf8))
}

/// One event for the host.
func say(_ event: [String: Any]) { write(json(event)) }

func json(_ value: Any) -> String {
    let data = (try? JSONSerialization.data(withJSONObject: value, options: [.sortedKeys])) ?? Data("{}".utf8)
    return String(decoding: data, as: UTF8.self)
}

/// Hexadecimal SHA-256 of a file; nil if there is none.
func sha256(of url: URL) throws -> String? {
    guard let file = try? FileHandle(forReadingFrom: url) else { return nil }
    defer { try? file.close() }
    var hash = SHA256()
    while let part = try file.read(upToCount: 1 << 20), !part.isEmpty { hash.update(data: part) }
    return hash.finalize().map { String(format: "%02x", $0) }.joined()
}

/// The clip that a line of results is of; nil if it is none. The logits are not read: NaN among them is the host's to
/// refuse, and JSONSerialization would refuse the whole line.
private func placeOf(_ line: String) -> Int? {
    let start = "{\"clip\": "
    return line.hasPrefix(start) ? Int(line.dropFirst(start.count).prefix { $0 != "," }) : nil
}

/// results.jsonl: a line that says what ran, then a line for each clip.
final class Results {
    private(set) var done: Set<Int> = []
    private let file: FileHandle

    init(folder: URL, runtime: String, resume: Bool) throws {
        let url = folder.appending(path: "results.jsonl")
        let head = json(["runtime": runtime])
        // What follows the last line break was torn when the app was ended.
        let text = resume ? (try? String(contentsOf: url, encoding: .utf8)) ?? "" : ""
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false).dropLast().map(String.init)
        let same = lines.first == head
        if same {
            for line in lines.dropFirst() {
                if let place = placeOf(line) { done.insert(place) }
            }
        } else {
            // Answers of another version of the system are not mixed with these, and neither are its times.
            try? FileManager.default.removeItem(at: folder.appending(path: "samples.json"))
        }
        let kept = same ? lines.map { $0 + "\n" }.joined() : head + "\n"
        try Data(kept.utf8).write(to: url, options: .atomic)
        file = try FileHandle(forWritingTo: url)
        try file.seekToEnd()
    }

    func add(_ place: Int, _ logits: [Float]) throws {
        // Nine digits keep every bit of a float; JSONSerialization would write it as a double.
        let values = logits.map { $0.isFinite ? String(format: "%.9g", $0) : "NaN" }.joined(separator: ", ")
        try file.write(contentsOf: Data("{\"clip\": \(place), \"logits\": [\(values)]}\n".utf8))
        done.insert(place)
    }

    func close() throws { try file.synchronize(); try file.close() }
}
