"""The colours of plots."""

INK, GREY, BLUE, ORANGE = "#222222", "#dddddd", "#1f77b4", "#ff7f0e"
