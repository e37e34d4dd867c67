/** Why a request failed: the problem document of the API, or what stands in for it when none came. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  /** The sentence the server wrote, empty when it wrote none. */
  readonly detail: string;
  readonly requestId: string;
  /** A path of the API that helps, for example the save that is in the way. */
  readonly link: string;

  constructor(fields: { status: number; code?: string; detail?: string; requestId?: string; link?: string }) {
    super(fields.detail || `HTTP ${fields.status}`);
    this.name = 'Problem';
    this.status = fields.status;
    this.code = fields.code ?? '';
    this.detail = fields.detail ?? '';
    this.requestId = fields.requestId ?? '';
    this.link = fields.link ?? '';
  }

  /** No answer came at all. */
  static unreachable(): Problem {
    return new Problem({ status: 0, code: 'unreachable' });
  }

  static async of(response: Response): Promise<Problem> {
    const requestId = response.headers.get('X-Request-ID') ?? '';
    const document = await readDocument(response);
    return new Problem({
      status: response.status,
      code: text(document.code),
      detail: text(document.detail),
      requestId: text(document.request_id) || requestId,
      link: text(document.link)
    });
  }

  /** Whether asking again later, unchanged, can help. */
  get passing(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }
}

async function readDocument(response: Response): Promise<Record<string, unknown>> {
  try {
    const document: unknown = await response.json();
    return document !== null && typeof document === 'object' ? (document as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

function text(value: unknown): string {
  return typeof value === 'string' ? value : '';
}
