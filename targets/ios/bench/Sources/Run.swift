// Runs the job: loads the model, times it on the first clip, then gives the logits of every clip.

import CoreML
import Foundation
import UIKit

/// A compiled Core ML model, on whatever unit Core ML chooses.
final class Network {
    private let model: MLModel
    private let input: MLMultiArray

    init(compiled: URL, shape: [Int]) throws {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = .all
        model = try MLModel(contentsOf: compiled, configuration: configuration)
        input = try MLMultiArray(shape: shape.map(NSNumber.init(value:)), dataType: .float16)
    }

    /// Puts a clip of bytes into the model's input. Core ML has no arrays of bytes; 0 to 255 are exact in float16.
    func take(_ clip: Data.SubSequence) {
        input.withUnsafeMutableBufferPointer(ofType: Float16.self) { values, _ in
            for (at, byte) in clip.enumerated() { values[at] = Float16(byte) }
        }
    }

    /// Logits of the clip that was taken.
    func run() throws -> [Float] {
        let features = try MLDictionaryFeatureProvider(dictionary: ["clip": MLFeatureValue(multiArray: input)])
        guard let logits = try model.prediction(from: features).featureValue(for: "logits")?.multiArrayValue else {
            throw RunError(kind: "model", message: "the model has no output logits")
        }
        return (0..<logits.count).map { logits[$0].floatValue }
    }
}

func run(_ job: Job) throws {
    let device = UIDevice.current
    let runtime = "Core ML of \(device.systemName) \(device.systemVersion)"
    say(["event": "hello", "protocol": protocolVersion, "runtime": runtime, "native": true,
         "device": "\(machine()) (\(device.systemName) \(device.systemVersion))"])
    let folder = documents.appending(path: job.out)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    try Data(job.run.utf8).write(to: folder.appending(path: "run"))  // before the rest: whose that is from now on
    let results = try Results(folder: folder, runtime: runtime, resume: job.resume)
    let samples = folder.appending(path: "samples.json")
    // The host tells of old times by old clips.
    let timed = !results.done.isEmpty && FileManager.default.fileExists(atPath: samples.path)
    let count = { say(["event": "clips", "done": results.done.count, "total": job.total]) }
    count()
    if timed && results.done.count == job.total { return }
    let before = state()
    let memory = memoryBytes()
    let compiled = try MLModel.compileModel(at: documents.appending(path: job.model))
    defer { try? FileManager.default.removeItem(at: compiled) }
    say(["event": "alive"])
    let begin = now()
    let network = try Network(compiled: compiled, shape: job.shape)
    let loadMs = 1e3 * (now() - begin)
    var place = 0
    var said = now()
    for pack in job.clips {
        let first = place
        let clips = try Data(contentsOf: documents.appending(path: pack.name), options: .mappedIfSafe)
        guard clips.count == pack.count * job.clipBytes else {
            throw RunError(kind: "input", message: "\(pack.name) has \(clips.count) bytes")
        }
        for _ in 0..<pack.count {
            defer { place += 1 }
            let at = clips.startIndex + (place - first) * job.clipBytes
            let clip = clips[at..<(at + job.clipBytes)]
            if place == 0 && !timed {
                network.take(clip)
                var values = try measure(network, job)
                values["load_ms"] = loadMs
                values["memory_peak_bytes"] = max(0, memoryBytes() - memory)
                values["environment_before"] = before
                values["environment_after"] = state()
                try Data(json(values).utf8).write(to: samples, options: .atomic)
            }
            if results.done.contains(place) { continue }
            try autoreleasepool {
                network.take(clip)
                let logits = try network.run()
                guard logits.count == job.classes else {
                    throw RunError(kind: "model", message: "the model gives \(logits.count) logits, not \(job.classes)")
                }
                try results.add(place, logits)
            }
            if now() - said > 0.2 { count(); said = now() }
        }
    }
    try results.close()
    count()
}

/// Raw times of the clip that the network holds. Statistics are the host's.
private func measure(_ network: Network, _ job: Job) throws -> [String: Any] {
    var said = now()
    func timed() throws -> Double {
        try autoreleasepool {
            let begin = now()
            _ = try network.run()
            let taken = 1e3 * (now() - begin)
            if now() - said > 1 { say(["event": "alive"]); said = now() }
            return taken
        }
    }
    var values: [String: Any] = ["first_ms": try timed(), "threads": 0, "sustained": NSNull()]
    values["warmup_ms"] = try (0..<job.warmup).map { _ in try timed() }
    var times: [Double] = []
    var begin = now()
    while times.count < job.runs && (times.count < job.minRuns || now() - begin < job.budgetS) { times.append(try timed()) }
    values["network_ms"] = times
    #if DEBUG
    values["build"] = "debug"
    #else
    values["build"] = "release"
    #endif
    if job.sustainedS > 0 {
        var at: [Double] = []
        var sustained: [Double] = []
        begin = now()
        while now() - begin < job.sustainedS {
            at.append(now() - begin)
            sustained.append(try timed())
        }
        values["sustained"] = ["at_s": at, "network_ms": sustained]
    }
    return values
}

/// Seconds of a clock that only goes forward.
func now() -> Double { Double(DispatchTime.now().uptimeNanoseconds) / 1e9 }
