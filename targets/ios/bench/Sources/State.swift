// What the device is, and the state it is in. Changes nothing.

import Foundation
import UIKit
import os

/// The identifier of the model, e.g. 'iPhone16,1'.
func machine() -> String {
    var name = utsname()
    uname(&name)
    return withUnsafeBytes(of: &name.machine) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
}

/// What the system says now; it shows no clocks and no temperatures to an app.
func state() -> [String: Any] {
    let process = ProcessInfo.processInfo
    let heat: [ProcessInfo.ThermalState: String] = [
        .nominal: "nominal", .fair: "fair", .serious: "serious", .critical: "critical",
    ]
    var values: [String: Any] = [
        "time": ISO8601DateFormatter().string(from: Date()),
        "thermal_status": heat[process.thermalState] ?? "unknown",
        "power_mode": process.isLowPowerModeEnabled ? "low power" : "normal",
        "memory_available_bytes": os_proc_available_memory(),
    ]
    let device = UIDevice.current
    if device.batteryLevel >= 0 {
        values["battery_percent"] = Double(device.batteryLevel * 100)
        values["charging"] = device.batteryState == .charging || device.batteryState == .full
    }
    return values
}

/// Memory that the system counts against this app; 0 where it does not say.
func memoryBytes() -> Int {
    var info = task_vm_info_data_t()
    var count = mach_msg_type_number_t(MemoryLayout<task_vm_info_data_t>.size / MemoryLayout<natural_t>.size)
    let result = withUnsafeMutablePointer(to: &info) {
        $0.withMemoryRebound(to: integer_t.self, capacity: Int(count)) {
            task_info(mach_task_self_, task_flavor_t(TASK_VM_INFO), $0, &count)
        }
    }
    return result == KERN_SUCCESS ? Int(info.phys_footprint) : 0
}
