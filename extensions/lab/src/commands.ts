/** The commands of Himalia, in one place. */
export namespace CommandIDs {
  export const saveEnvironment = 'himalia:save-environment';
  export const shareEnvironment = 'himalia:share-environment';
  export const runAsJob = 'himalia:run-as-job';
  export const showJobs = 'himalia:show-jobs';
  export const openJob = 'himalia:open-job';
}
