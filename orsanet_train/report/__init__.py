"""Reports of evaluated runs: report.html, report.md, report.json."""
