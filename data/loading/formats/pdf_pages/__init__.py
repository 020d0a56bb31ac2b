"""What pdfium does not give of a page, one file each: columns, form fields, right-to-left lines, titles, scans."""
