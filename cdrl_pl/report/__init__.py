"""From runs to a page: reading (``runs``), numbers (``statistics``), ``figures``, ``tables``, ``words``, ``page``."""
