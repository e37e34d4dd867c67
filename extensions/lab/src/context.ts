/** What the views of this extension work with. */

import { PageConfig, URLExt } from '@jupyterlab/coreutils';
import type { IStateDB } from '@jupyterlab/statedb';
import type { Client } from './api';
import { serverName } from './inputs';
import type { Server } from './server';
import type { Feed } from './sse';
import type { Strings } from './strings';

export interface Himalia {
  client: Client;
  server: Server;
  feed: Feed;
  state: IStateDB;
  s: Strings;
  place: Place;
  copy: (text: string) => void;
}

/** Where this page is: set by the server half and by JupyterHub. */
export interface Place {
  url: string;
  workspace: string;
  /** The environment the workspace was started from. */
  environment: string;
}

/** Null where the lab runs outside Himalia. */
export function place(): Place | null {
  const url = PageConfig.getOption('himaliaUrl').replace(/\/+$/, '');
  if (!url) {
    return null;
  }
  return {
    url,
    workspace: PageConfig.getOption('himaliaWorkspace'),
    environment: PageConfig.getOption('himaliaEnvironment')
  };
}

/** The hub's page that opens a workspace of its own from an environment. */
export function spawnUrl(user: string, ref: string): string {
  const name = serverName(ref.slice(ref.indexOf('/') + 1).replace(':', '-'));
  const prefix = PageConfig.getOption('hubPrefix') || '/hub/';
  const path = URLExt.join(prefix, 'spawn', encodeURIComponent(user), name);
  return `${PageConfig.getOption('hubHost')}${path}?opt-environment=${encodeURIComponent(ref)}`;
}
