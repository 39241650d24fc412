"""From finished or running runs to a page: reading (``runs``), numbers (``statistics``), figures, tables and the page."""
