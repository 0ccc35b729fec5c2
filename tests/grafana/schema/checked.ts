import type * as d from '@grafana/schema/dist/types/raw/dashboard/x/types.gen';
import type * as bargauge from '@grafana/schema/dist/types/raw/composable/bargauge/panelcfg/x/types.gen';
import type * as stat from '@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';
import type * as table from '@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen';
import type * as tempo from '@grafana/schema/dist/types/raw/composable/tempo/dataquery/x/types.gen';
import type * as timeseries from '@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';

/** What is checked: each property is a type of the schema, by the name that the test looks for. */
export interface Checked {
  Dashboard: d.Dashboard;
  DashboardLink: d.DashboardLink;
  'bargauge.options': bargauge.Options;
  'stat.options': stat.Options;
  'table.options': table.Options;
  'table.custom': table.FieldConfig;
  'timeseries.options': timeseries.Options;
  'timeseries.custom': timeseries.FieldConfig;
  'tempo.query': tempo.TempoQuery;
}
