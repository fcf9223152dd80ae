"""What a report proves, of which files, and how: one typed, versioned record that every proof writes.

    record    the record, strictly written and read
    digest    canonical JSON and the hashes of configurations, folders and reports
    reading   a report file with its record, and whether both say the same
"""
