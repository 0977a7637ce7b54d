"""The notifier: tells others what became of tasks, durably."""
