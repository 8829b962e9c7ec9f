// The app that `xcrun devicectl` starts with the arguments of one run. It shows a line and works in the background.

import Foundation
import SwiftUI
import UIKit

@main
struct BenchApp: App {
    var body: some Scene {
        WindowGroup {
            Text("d3d-edge runs a model.\nKeep this app in front.")
                .multilineTextAlignment(.center)
                .onAppear(perform: start)
        }
    }

    private func start() {
        // A run of minutes must not end with the display.
        UIApplication.shared.isIdleTimerDisabled = true
        UIDevice.current.isBatteryMonitoringEnabled = true
        guard CommandLine.arguments.count > 1 else { return }  // started by hand
        Thread.detachNewThread {
            exit(perform(Array(CommandLine.arguments.dropFirst())))
        }
    }
}

/// The exit code of what the arguments ask for.
func perform(_ words: [String]) -> Int32 {
    do {
        try FileManager.default.createDirectory(at: documents, withIntermediateDirectories: true)
        if words.first == "--hash" {
            for name in words.dropFirst() {
                if let digest = try sha256(of: documents.appending(path: name)) { write("\(digest)  \(name)") }
            }
            return 0
        }
        try run(try Job(words))
        say(["event": "done"])
        return 0
    } catch let error as RunError {
        say(["event": "error", "kind": error.kind, "message": error.message])
    } catch {
        let full = (error as NSError).domain == NSCocoaErrorDomain && (error as NSError).code == NSFileWriteOutOfSpaceError
        say(["event": "error", "kind": full ? "disk_full" : "model", "message": error.localizedDescription])
    }
    return 1
}
