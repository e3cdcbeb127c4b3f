// Fetches the drawing library while the server still computes the page's first chart.

import { loadPlotly } from "./chart.js";

export default function headStart(_, options) {
  loadPlotly(options.plotly).catch(() => {}); // the first chart reports a failure
}
