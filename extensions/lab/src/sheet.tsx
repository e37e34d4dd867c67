/** A dialog whose content changes while it is open: a form, then how it goes, then what comes next. */

import { Dialog, ReactWidget } from '@jupyterlab/apputils';
import * as React from 'react';

const FOCUSABLE =
  'input:not(:disabled), select:not(:disabled), textarea:not(:disabled), button:not(:disabled), a[href]';

export class Sheet extends Dialog<void> {
  constructor(title: string, body: (close: () => void) => React.ReactElement) {
    super({
      title,
      body: ReactWidget.create(body(() => this.reject())),
      buttons: [],
      hasClose: true,
      focusNodeSelector: '[data-himalia-first]'
    });
    this.addClass('himalia-Sheet');
  }

  /** Shows it; resolves when it is closed, however that happens. */
  async open(): Promise<void> {
    await this.launch().catch(() => undefined);
  }

  /** The lab's dialogs take Enter and arrows for their own buttons; here they belong to the form. */
  protected override _evtKeydown(event: KeyboardEvent): void {
    if (event.key === 'Escape') {
      event.stopPropagation();
      event.preventDefault();
      this.reject();
    } else if (event.key === 'Tab') {
      this.keepFocus(event);
    }
  }

  protected override _evtFocus(event: FocusEvent): void {
    if (!this.node.contains(event.target as Node)) {
      event.stopPropagation();
      this.focusable()[0]?.focus();
    }
  }

  private keepFocus(event: KeyboardEvent): void {
    const nodes = this.focusable();
    const [from, to] = event.shiftKey ? [nodes[0], nodes.at(-1)] : [nodes.at(-1), nodes[0]];
    if (document.activeElement === from) {
      event.preventDefault();
      to?.focus();
    }
  }

  private focusable(): HTMLElement[] {
    return [...this.node.querySelectorAll<HTMLElement>(FOCUSABLE)];
  }
}

export interface SheetViewProps {
  children: React.ReactNode;
  /** The row of buttons at the end. */
  actions: React.ReactNode;
  onSubmit?: () => void;
}

export function SheetView({ children, actions, onSubmit }: SheetViewProps): React.ReactElement {
  const submit = (event: React.FormEvent) => {
    event.preventDefault();
    onSubmit?.();
  };
  return (
    <form className="himalia-Sheet-view" onSubmit={submit} noValidate={false}>
      <div className="himalia-Sheet-content">{children}</div>
      <div className="himalia-Sheet-actions">{actions}</div>
    </form>
  );
}
