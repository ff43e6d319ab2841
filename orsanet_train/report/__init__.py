"""What evaluated runs amount to: report.html, report.md, report.json."""
