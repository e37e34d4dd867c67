import { LabIcon } from '@jupyterlab/ui-components';

const svg = (body: string): string =>
  `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" width="16"><g class="jp-icon3" fill="#616161">${body}</g></svg>`;

/** A moon before its planet. */
export const himaliaIcon = new LabIcon({
  name: 'himalia:moon',
  svgstr: svg(
    '<path d="M8 1.2a6.8 6.8 0 1 0 6.5 8.8 5.3 5.3 0 0 1-7.3-6.9c.3-.7.8-1.3 1.3-1.9z"/><circle cx="11.9" cy="5.2" r="1.7"/>'
  )
});

/** A moon with an arrow into a tray: what is here is kept. */
export const saveIcon = new LabIcon({
  name: 'himalia:save',
  svgstr: svg(
    '<path d="M7.2 1.5h1.6v6l2.2-2.2 1.1 1.1L8 10.6 3.9 6.4 5 5.3l2.2 2.2z"/><path d="M1.8 9.6h1.7v3.2h9V9.6h1.7v4.9H1.8z"/>'
  )
});

export const jobIcon = new LabIcon({
  name: 'himalia:job',
  svgstr: svg('<path d="M1.8 2.2h12.4v11.6H1.8zm1.6 1.6v8.4h9.2V3.8z"/><path d="M6.2 5.2v5.6L11 8z"/>')
});
